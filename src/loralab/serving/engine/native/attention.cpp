// What the newest token of every row attends to, after its key and value have gone into the row's place in the cache.
//
//     q, k <- x cos + swapped(x) sin      as the model turns them: three roundings
//     S_t = s q.k_t,   S <- c tanh(S/c) where it is capped,   P = softmax(S),   O = sum_t P_t v_t
//
// A row's sums go over its own tokens, from its first on: neither the columns before it nor who is beside it change a bit.
//
// Shapes: R rows, Q query heads, G key heads, D head width, U turned part of D, N columns of the cache.

#include <cmath>
#include <vector>

#include "numbers.h"

namespace {

using namespace loralab;

struct Step {
  const void *query, *key, *value;  // [R, Q, D] and [R, G, D], strides between rows below
  const void *cosine, *sine;        // [R, U], the first half of sine negated
  void *keys, *values;              // [R, G, N, D]
  void* output;                     // [R, Q, D]
  const int32_t* firsts;            // the column where each row begins
  int64_t query_stride, key_stride, value_stride;
  int64_t rows, heads, groups, width, turned, columns;
  int64_t now;     // the column of the newest token
  int64_t window;  // how many of the newest tokens are seen; 0: all
  int64_t threads;
  float scale, cap;  // cap 0: none
};

// What a thread works with.
template <typename Number>
struct Scratch {
  explicit Scratch(int64_t width) : query(width), turned(width) {}

  std::vector<float> query, scores;
  std::vector<Number> turned;
};

template <typename Number>
void turn(const Number* x, const Number* cosine, const Number* sine, int64_t width, int64_t turned, Number* y) {
  const int64_t half = turned / 2;
  for (int64_t d = 0; d < turned; ++d) {
    const float along = rounded<Number>(wide(x[d]) * wide(cosine[d]));
    const float across = rounded<Number>(wide(x[d < half ? d + half : d - half]) * wide(sine[d]));
    y[d] = narrow<Number>(along + across);
  }
  for (int64_t d = turned; d < width; ++d) y[d] = x[d];
}

// Scores to weights, which add up to what is returned.
float weigh(float* scores, int64_t tokens, float scale, float cap) {
  float most = -INFINITY;
  for (int64_t t = 0; t < tokens; ++t) {
    scores[t] *= scale;
    if (cap > 0) scores[t] = cap * std::tanh(scores[t] / cap);
  }
  for (int64_t t = 0; t < tokens; ++t) most = scores[t] > most ? scores[t] : most;
  for (int64_t t = 0; t < tokens; ++t) scores[t] = exponential(scores[t] - most);
  float sums[LANES] = {};
  int64_t t = 0;
  for (; t + LANES <= tokens; t += LANES)
    for (int64_t lane = 0; lane < LANES; ++lane) sums[lane] += scores[t + lane];
  for (int64_t lane = 0; t < tokens; ++lane, ++t) sums[lane] += scores[t];
  return total(sums);
}

// The query heads of one key head of one row.
template <typename Number>
void attend_group(const Step& step, int64_t row, int64_t group, Scratch<Number>& scratch) {
  const int64_t width = step.width, shared = step.heads / step.groups;
  const Number* cosine = static_cast<const Number*>(step.cosine) + row * step.turned;
  const Number* sine = static_cast<const Number*>(step.sine) + row * step.turned;
  Number* keys = static_cast<Number*>(step.keys) + (row * step.groups + group) * step.columns * width;
  Number* values = static_cast<Number*>(step.values) + (row * step.groups + group) * step.columns * width;

  const Number* key = static_cast<const Number*>(step.key) + row * step.key_stride + group * width;
  turn(key, cosine, sine, width, step.turned, keys + step.now * width);
  const Number* value = static_cast<const Number*>(step.value) + row * step.value_stride + group * width;
  std::memcpy(values + step.now * width, value, width * sizeof(Number));

  int64_t first = step.firsts[row];
  if (step.window > 0 && first < step.now + 1 - step.window) first = step.now + 1 - step.window;
  const int64_t tokens = step.now + 1 - first;
  scratch.scores.resize(tokens);
  float* scores = scratch.scores.data();
  for (int64_t head = group * shared; head < (group + 1) * shared; ++head) {
    const Number* query = static_cast<const Number*>(step.query) + row * step.query_stride + head * width;
    turn(query, cosine, sine, width, step.turned, scratch.turned.data());
    for (int64_t d = 0; d < width; ++d) scratch.query[d] = wide(scratch.turned[d]);
    for (int64_t t = 0; t < tokens; ++t) scores[t] = dot(keys + (first + t) * width, scratch.query.data(), width);
    const float all = weigh(scores, tokens, step.scale, step.cap);
    Number* output = static_cast<Number*>(step.output) + (row * step.heads + head) * width;
    weighted_sum(scores, values + first * width, tokens, width,
                 [=](int64_t d, float sum) { output[d] = narrow<Number>(sum / all); });
  }
}

template <typename Number>
void attend(const Step& step) {
#pragma omp parallel num_threads(step.threads)
  {
    Scratch<Number> scratch(step.width);
#pragma omp for schedule(static)
    for (int64_t pair = 0; pair < step.rows * step.groups; ++pair)
      attend_group(step, pair / step.groups, pair % step.groups, scratch);
  }
}

}  // namespace

extern "C" void attend_float32(const Step* step) { attend<float>(*step); }
extern "C" void attend_bfloat16(const Step* step) { attend<bfloat16>(*step); }
