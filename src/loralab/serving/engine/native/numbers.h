// Numbers as the kernels compute with them: read as float32, rounded once where they are written.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace loralab {

constexpr int64_t LANES = 32;    // partial sums of a sum over a vector: its order depends on the length alone
constexpr int64_t OUTPUTS = 64;  // sums that are formed at once over the rows of a matrix

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
float rounded(float value) {
  return wide(narrow<Number>(value));
}

inline float total(float* sums) {
  for (int64_t half = LANES / 2; half > 0; half /= 2)
    for (int64_t lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  return sums[0];
}

template <typename Number>
float dot(const Number* a, const float* x, int64_t width) {
  float sums[LANES] = {};
  int64_t i = 0;
  for (; i + LANES <= width; i += LANES)
    for (int64_t lane = 0; lane < LANES; ++lane) sums[lane] += wide(a[i + lane]) * x[i + lane];
  for (int64_t lane = 0; i < width; ++lane, ++i) sums[lane] += wide(a[i]) * x[i];
  return total(sums);
}

// e^x of x <= 0 to a rounding or two of float32, in operations that a compiler makes vectors of.
inline float exponential(float x) {
  x = x < -87.0f ? -87.0f : x;
  const float n = std::floor(x * 1.44269504f + 0.5f);
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return p * power;
}

// put(o, sum_c u[c] rows[c, o]) for every output o of `count` rows that are `width` wide.
template <typename Number, typename Put>
void weighted_sum(const float* u, const Number* rows, int64_t count, int64_t width, Put put) {
  int64_t o = 0;
  for (; o + OUTPUTS <= width; o += OUTPUTS) {
    float sums[OUTPUTS] = {};
    for (int64_t c = 0; c < count; ++c) {
      const Number* row = rows + c * width + o;
      for (int64_t lane = 0; lane < OUTPUTS; ++lane) sums[lane] += u[c] * wide(row[lane]);
    }
    for (int64_t lane = 0; lane < OUTPUTS; ++lane) put(o + lane, sums[lane]);
  }
  for (; o < width; ++o) {
    float sum = 0;
    for (int64_t c = 0; c < count; ++c) sum += u[c] * wide(rows[c * width + o]);
    put(o, sum);
  }
}

}  // namespace loralab
