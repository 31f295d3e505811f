"""WikiSQL's logical form and execution accuracy, as its official evaluator defines them."""
