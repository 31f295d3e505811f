// What the newest token of every row attends to, after its key and value have gone into the row's place in the cache.
//
//     q, k <- x cos + swapped(x) sin      as the model turns them: three roundings
//     S_t = s q.k_t,   S <- c tanh(S/c) where it is capped,   P = softmax(S),   O = sum_t P_t v_t
//
// A row's sums go over its own tokens, from its first on: neither where they stand in the cache, nor the columns of
// others, nor who is beside it change a bit. Its tokens are a run of columns up to the newest, or a path through columns.
//
// Shapes: R rows, L lines of the cache, Q query heads, G key heads, D head width, U turned part of D, N columns, P at
// most on a path.

#include <cmath>
#include <vector>

#include "numbers.h"

namespace {

using namespace loralab;

struct Step {
  const void *query, *key, *value;  // [R, Q, D] and [R, G, D], strides between rows below
  const void *cosine, *sine;        // [R, U], the first half of sine negated
  void *keys, *values;              // [L, G, N, D]
  void* output;                     // [R, Q, D]
  const int32_t* firsts;            // [R]: where row r begins in line r, whose column `now` is its newest's
  const int32_t* lines;             // or [R]: the line that each row is in,
  const int32_t* paths;             // [R, P]: the columns of its tokens in their order; null where they are runs,
  const int32_t* counts;            // [R]: and how many these are
  int64_t query_stride, key_stride, value_stride;
  int64_t rows, heads, groups, width, turned, columns;
  int64_t window;  // how many of the newest tokens are seen; 0: all
  int64_t threads;
  int64_t now, path_stride;
  float scale, cap;  // cap 0: none
};

// What a thread works with.
template <typename Number>
struct Scratch {
  explicit Scratch(int64_t width) : query(width), turned(width) {}

  std::vector<float> query, scores;
  std::vector<Number> turned, keys, values;
};

// The columns of a row's tokens, and the rows [t, D] of a matrix [N, D] from the token `first` on as one matrix.
struct Run {
  int64_t begin;

  int64_t operator[](int64_t t) const { return begin + t; }

  template <typename Number>
  const Number* gathered(const Number* matrix, int64_t width, int64_t first, int64_t, std::vector<Number>&) const {
    return matrix + (begin + first) * width;
  }
};

struct Path {
  const int32_t* columns;

  int64_t operator[](int64_t t) const { return columns[t]; }

  template <typename Number>
  const Number* gathered(const Number* matrix, int64_t width, int64_t first, int64_t count,
                         std::vector<Number>& room) const {
    room.resize(count * width);
    for (int64_t t = 0; t < count; ++t)
      std::memcpy(room.data() + t * width, matrix + columns[first + t] * width, width * sizeof(Number));
    return room.data();
  }
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

// The query heads of one key head of one row, whose newest token is the last of so many.
template <typename Number, typename Columns>
void attend_among(const Step& step, int64_t row, int64_t group, int64_t line, Columns columns, int64_t tokens,
                  Scratch<Number>& scratch) {
  const int64_t width = step.width, shared = step.heads / step.groups, newest = columns[tokens - 1];
  const Number* cosine = static_cast<const Number*>(step.cosine) + row * step.turned;
  const Number* sine = static_cast<const Number*>(step.sine) + row * step.turned;
  const int64_t place = (line * step.groups + group) * step.columns * width;
  Number* keys = static_cast<Number*>(step.keys) + place;
  Number* values = static_cast<Number*>(step.values) + place;

  const Number* key = static_cast<const Number*>(step.key) + row * step.key_stride + group * width;
  turn(key, cosine, sine, width, step.turned, keys + newest * width);
  const Number* value = static_cast<const Number*>(step.value) + row * step.value_stride + group * width;
  std::memcpy(values + newest * width, value, width * sizeof(Number));

  const int64_t first = step.window > 0 && tokens > step.window ? tokens - step.window : 0, seen = tokens - first;
  const Number* seen_keys = columns.gathered(keys, width, first, seen, scratch.keys);
  const Number* seen_values = columns.gathered(values, width, first, seen, scratch.values);
  scratch.scores.resize(seen);
  float* scores = scratch.scores.data();
  for (int64_t head = group * shared; head < (group + 1) * shared; ++head) {
    const Number* query = static_cast<const Number*>(step.query) + row * step.query_stride + head * width;
    turn(query, cosine, sine, width, step.turned, scratch.turned.data());
    for (int64_t d = 0; d < width; ++d) scratch.query[d] = wide(scratch.turned[d]);
    for (int64_t t = 0; t < seen; ++t) scores[t] = dot(seen_keys + t * width, scratch.query.data(), width);
    const float all = weigh(scores, seen, step.scale, step.cap);
    Number* output = static_cast<Number*>(step.output) + (row * step.heads + head) * width;
    weighted_sum(scores, seen_values, seen, width, [=](int64_t d, float sum) { output[d] = narrow<Number>(sum / all); });
  }
}

template <typename Number>
void attend(const Step& step) {
#pragma omp parallel num_threads(step.threads)
  {
    Scratch<Number> scratch(step.width);
#pragma omp for schedule(static)
    for (int64_t pair = 0; pair < step.rows * step.groups; ++pair) {
      const int64_t row = pair / step.groups, group = pair % step.groups;
      if (step.paths)
        attend_among(step, row, group, step.lines[row], Path{step.paths + row * step.path_stride}, step.counts[row],
                     scratch);
      else
        attend_among(step, row, group, row, Run{step.firsts[row]}, step.now + 1 - step.firsts[row], scratch);
    }
  }
}

}  // namespace

extern "C" void attend_float32(const Step* step) { attend<float>(*step); }
extern "C" void attend_bfloat16(const Step* step) { attend<bfloat16>(*step); }
