#include "engine/backend/cpu/packed_queries.h"

#include "engine/backend/cpu/stored_keys.h"

namespace sparseserve::cpu {

void PackQueries(const SelectArgs& args, const SliceRows& rows, int32_t kv_head,
                 float factor, std::vector<float>& packed) {
  const int32_t head_dim = args.kv.head_dim;
  const int32_t heads = args.heads / args.kv.kv_heads;
  const int64_t depth = PaddedDepth(head_dim);
  packed.assign(heads * rows.rows * depth, 0.0f);
  for (int32_t h = 0; h < heads; ++h) {
    for (int32_t r = 0; r < rows.rows; ++r) {
      const float* from = args.queries.row(rows.first_row + r) +
                          (int64_t{kv_head} * heads + h) * head_dim;
      float* to = packed.data() + (int64_t{h} * rows.rows + r) * depth;
      for (int32_t i = 0; i < head_dim; ++i) to[i] = from[i] * factor;
    }
  }
}

}  // namespace sparseserve::cpu
