// RMSNorm: y = w x (mean x^2 + epsilon)^-1/2, in float32 and rounded once.
//
// Shapes: N rows, H width.

#include <cmath>

#include "numbers.h"

namespace {

using namespace loralab;

template <typename Number>
void rms_norm(const Number* x, int64_t x_stride, const float* gain, float epsilon, Number* y, int64_t rows,
              int64_t width, int64_t threads) {
#pragma omp parallel for num_threads(threads) if (rows > 1)
  for (int64_t n = 0; n < rows; ++n) {
    const Number* from = x + n * x_stride;
    Number* to = y + n * width;
    float sums[LANES] = {};
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES)
      for (int64_t lane = 0; lane < LANES; ++lane) sums[lane] += wide(from[i + lane]) * wide(from[i + lane]);
    for (int64_t lane = 0; i < width; ++lane, ++i) sums[lane] += wide(from[i]) * wide(from[i]);
    const float rho = 1.0f / std::sqrt(total(sums) / static_cast<float>(width) + epsilon);
    for (int64_t h = 0; h < width; ++h) to[h] = narrow<Number>(wide(from[h]) * rho * gain[h]);
  }
}

}  // namespace

extern "C" void rms_norm_float32(const float* x, int64_t x_stride, const float* gain, float epsilon, float* y,
                                 int64_t rows, int64_t width, int64_t threads) {
  rms_norm(x, x_stride, gain, epsilon, y, rows, width, threads);
}

extern "C" void rms_norm_bfloat16(const bfloat16* x, int64_t x_stride, const float* gain, float epsilon, bfloat16* y,
                                  int64_t rows, int64_t width, int64_t threads) {
  rms_norm(x, x_stride, gain, epsilon, y, rows, width, threads);
}
