// What adapters add to rows of a product, every row by its own adapter:
//
//     y[n, place_p] += sum_c u[n, p, c] B_p[c],   u[n, p, c] = A[c, p] . x[n],   c over the columns that row n sees
//
// Sums are formed in float32, u and y rounded once to the type of the factors. The order of every sum depends on the
// widths alone, so that a row gets the same bits whatever rows are beside it.
//
// Shapes: N rows, C columns, P modules that read the same input, I inputs; A [C, P, I], of each module B [C, O_p].

#include <vector>

#include "numbers.h"

namespace {

using namespace loralab;

struct Extent {
  int32_t start, stop;
};

struct Factors {
  const void* A;
  int64_t inputs, modules;
  const void* const* B;
  const int64_t *places, *widths;
};

template <typename Number>
void add_low_rank(const Factors& factors, const Number* x, int64_t x_stride, Number* y, int64_t y_stride,
                  const Extent* seen, int64_t rows, int64_t threads) {
  const int64_t inputs = factors.inputs, modules = factors.modules;
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> wide_x(inputs), u;
#pragma omp for schedule(static)
    for (int64_t n = 0; n < rows; ++n) {
      const int64_t start = seen[n].start, count = seen[n].stop - start;
      if (count == 0) continue;
      u.resize(count);
      for (int64_t i = 0; i < inputs; ++i) wide_x[i] = wide(x[n * x_stride + i]);
      for (int64_t p = 0; p < modules; ++p) {
        for (int64_t c = 0; c < count; ++c) {
          const Number* a = static_cast<const Number*>(factors.A) + ((start + c) * modules + p) * inputs;
          u[c] = rounded<Number>(dot(a, wide_x.data(), inputs));
        }
        const int64_t width = factors.widths[p];
        const Number* B = static_cast<const Number*>(factors.B[p]) + start * width;
        Number* to = y + n * y_stride + factors.places[p];
        weighted_sum(u.data(), B, count, width,
                     [to](int64_t o, float sum) { to[o] = narrow<Number>(wide(to[o]) + sum); });
      }
    }
  }
}

}  // namespace

#define OF_TYPE(name, Number)                                                                                       \
  extern "C" void name(const Factors* factors, const Number* x, int64_t x_stride, Number* y, int64_t y_stride,      \
                       const Extent* seen, int64_t rows, int64_t threads) {                                         \
    add_low_rank(*factors, x, x_stride, y, y_stride, seen, rows, threads);                                          \
  }

OF_TYPE(add_low_rank_float32, float)
OF_TYPE(add_low_rank_bfloat16, bfloat16)
