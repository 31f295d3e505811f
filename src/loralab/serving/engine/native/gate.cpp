// The gated layer's middle: y = act(g) u, with act(g) = g sigma(a g + b g^3), rounded as the model's own two steps round.
//
// a = 1, b = 0: SiLU; a = 2 sqrt(2/pi), b = 0.044715 a: GELU by tanh.
//
// Shapes: N rows of g and u [F] side by side, in y [N, F].

#include "numbers.h"

namespace {

using namespace loralab;

template <typename Number>
void gate(const Number* x, int64_t x_stride, Number* y, int64_t rows, int64_t width, float a, float b,
          int64_t threads) {
#pragma omp parallel for num_threads(threads) if (rows > 1)
  for (int64_t n = 0; n < rows; ++n) {
    const Number *g = x + n * x_stride, *u = g + width;
    for (int64_t f = 0; f < width; ++f) {
      const float value = wide(g[f]);
      const float z = value * (a + b * value * value);
      const float e = exponential(z < 0 ? z : -z);
      const float active = value * ((z < 0 ? e : 1.0f) / (1.0f + e));
      y[n * width + f] = narrow<Number>(rounded<Number>(active) * wide(u[f]));
    }
  }
}

}  // namespace

#define OF_TYPE(name, Number)                                                                               \
  extern "C" void name(const Number* x, int64_t x_stride, Number* y, int64_t rows, int64_t width, float a,  \
                       float b, int64_t threads) {                                                          \
    gate(x, x_stride, y, rows, width, a, b, threads);                                                       \
  }

OF_TYPE(gate_float32, float)
OF_TYPE(gate_bfloat16, bfloat16)
