// What adapters add to rows of a product, every row by its own adapter:
//
//     y[n, place_p] += sum_c u[n, p, c] B_p[c],   u[n, p, c] = A[c, p] . x[n],   c over the columns that row n sees
//
// Sums are formed in float32, u and y rounded once to the type of the factors. The order of every sum depends on the
// widths alone, so that a row gets the same bits whatever rows are beside it.
//
// Shapes: N rows, C columns, P modules that read the same input, I inputs; A [C, P, I], of each module B [C, O_p].

#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int64_t LANES = 32;    // partial sums of a product of two vectors
constexpr int64_t OUTPUTS = 64;  // outputs that are summed at once

struct bfloat16 {
  uint16_t bits;
};

inline float wide(float value) { return value; }

inline float wide(bfloat16 value) {
  uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

template <typename Number>
Number narrow(float value);

template <>
inline float narrow<float>(float value) {
  return value;
}

// To the nearest, ties to even; what is no number stays none.
template <>
inline bfloat16 narrow<bfloat16>(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  return bfloat16{static_cast<uint16_t>(is_nan ? 0x7fc0u : rounded)};
}

template <typename Number>
float dot(const Number* a, const float* x, int64_t width) {
  float sums[LANES] = {};
  int64_t i = 0;
  for (; i + LANES <= width; i += LANES)
    for (int64_t lane = 0; lane < LANES; ++lane) sums[lane] += wide(a[i + lane]) * x[i + lane];
  for (int64_t lane = 0; i < width; ++lane, ++i) sums[lane] += wide(a[i]) * x[i];
  for (int64_t half = LANES / 2; half > 0; half /= 2)
    for (int64_t lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  return sums[0];
}

// y += u B over `count` columns of B, whose rows are `width` wide.
template <typename Number>
void add_columns(Number* y, const float* u, const Number* B, int64_t count, int64_t width) {
  int64_t o = 0;
  for (; o + OUTPUTS <= width; o += OUTPUTS) {
    float sums[OUTPUTS] = {};
    for (int64_t c = 0; c < count; ++c) {
      const Number* row = B + c * width + o;
      for (int64_t lane = 0; lane < OUTPUTS; ++lane) sums[lane] += u[c] * wide(row[lane]);
    }
    for (int64_t lane = 0; lane < OUTPUTS; ++lane) y[o + lane] = narrow<Number>(wide(y[o + lane]) + sums[lane]);
  }
  for (; o < width; ++o) {
    float sum = 0;
    for (int64_t c = 0; c < count; ++c) sum += u[c] * wide(B[c * width + o]);
    y[o] = narrow<Number>(wide(y[o]) + sum);
  }
}

struct Extent {
  int32_t start, stop;
};

template <typename Number>
void add_low_rank(const Number* x, int64_t x_stride, Number* y, int64_t y_stride, const Extent* seen, int64_t rows,
                  const Number* A, int64_t inputs, int64_t modules, const Number* const* B, const int64_t* places,
                  const int64_t* widths, int64_t threads) {
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
          const Number* a = A + ((start + c) * modules + p) * inputs;
          u[c] = wide(narrow<Number>(dot(a, wide_x.data(), inputs)));
        }
        add_columns(y + n * y_stride + places[p], u.data(), B[p] + start * widths[p], count, widths[p]);
      }
    }
  }
}

}  // namespace

#define OF_TYPE(name, Number)                                                                                        \
  extern "C" void name(const Number* x, int64_t x_stride, Number* y, int64_t y_stride, const Extent* seen,           \
                       int64_t rows, const Number* A, int64_t inputs, int64_t modules, const Number* const* B,       \
                       const int64_t* places, const int64_t* widths, int64_t threads) {                              \
    add_low_rank(x, x_stride, y, y_stride, seen, rows, A, inputs, modules, B, places, widths, threads);              \
  }

OF_TYPE(add_low_rank_float32, float)
OF_TYPE(add_low_rank_bfloat16, bfloat16)
