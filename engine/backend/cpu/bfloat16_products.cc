#include "engine/backend/cpu/bfloat16_products.h"

#include <algorithm>
#include <exception>
#include <oneapi/dnnl/dnnl.hpp>
#include <optional>
#include <random>
#include <unordered_map>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"

// Of the OpenMP runtime; the header that declares them is one compiler's.
extern "C" int omp_get_max_threads();
extern "C" void omp_set_num_threads(int threads);

namespace sparseserve::cpu {
namespace {

using dnnl::memory;

// Rows of a chunk. Tall ones where every worker gets one; the last rows of a
// product are padded to a whole low one.
constexpr int kTall = 64;
constexpr int kLow = 16;

// While it lives, oneDNN starts no threads on behalf of this thread.
class SingleThreaded {
 public:
  SingleThreaded() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~SingleThreaded() { omp_set_num_threads(before_); }
  SingleThreaded(const SingleThreaded&) = delete;
  SingleThreaded& operator=(const SingleThreaded&) = delete;

 private:
  int before_;
};

memory::desc RowMajor(int64_t rows, int64_t columns, memory::data_type type) {
  return memory::desc({rows, columns}, type, memory::format_tag::ab);
}

class OneDnnWeight : public PackedWeight {
 public:
  explicit OneDnnWeight(memory data) : data_(std::move(data)) {}
  int64_t bytes() const override {
    return static_cast<int64_t>(data_.get_desc().get_size());
  }
  int64_t rows() const { return data_.get_desc().dims()[1]; }
  int64_t columns() const { return data_.get_desc().dims()[0]; }
  void* data() const { return data_.get_data_handle(); }

 private:
  memory data_;  // logically [columns, rows]
};

// A primitive with one worker's operands. The handles of `source`, `weights`
// and `target` change from run to run; the rest is made once.
struct Product {
  void Run(void* source_data, void* weights_data, void* target_data) {
    source.set_data_handle(source_data);
    weights.set_data_handle(weights_data);
    target.set_data_handle(target_data);
    primitive.execute(stream, arguments);
  }

  dnnl::matmul primitive;
  dnnl::stream stream;
  memory source, weights, target;
  std::unordered_map<int, memory> arguments;
};

}  // namespace

bool HasAmx() {
  const auto wanted = static_cast<unsigned>(dnnl::cpu_isa::avx512_core_amx);
  const auto available = static_cast<unsigned>(dnnl::get_effective_cpu_isa());
  return (wanted & ~available) == 0;
}

struct Bfloat16Products::Engine {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
};

// What all weights of one shape share. Products and scratch are per worker.
struct Bfloat16Products::Shape {
  struct Worker {
    Product tall, tall_sum, low, low_sum;
    std::vector<uint16_t> source;  // [kTall, columns] bf16
    std::vector<float> target;     // [kLow, rows], for padded chunks
  };

  int64_t rows = 0;
  int64_t columns = 0;
  memory::desc weights;
  std::vector<Worker> workers;
  // Whether the four products give a row the same bits, an addition apart.
  // Unknown until a weight is there to try it on. If not, `low` does it all.
  std::optional<bool> is_uniform;
};

namespace {

dnnl::matmul::primitive_desc Describe(const dnnl::engine& engine, int height,
                                      int64_t rows, const memory::desc& weights,
                                      bool accumulate) {
  const int64_t columns = weights.dims()[0];
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (accumulate) {
    dnnl::post_ops sum;
    sum.append_sum(1.0f);
    attributes.set_post_ops(sum);
  }
  return dnnl::matmul::primitive_desc(
      dnnl::matmul::desc(RowMajor(height, columns, memory::data_type::bf16),
                         weights,
                         RowMajor(height, rows, memory::data_type::f32)),
      attributes, engine);
}

Product MakeProduct(const dnnl::engine& engine,
                    const dnnl::matmul::primitive_desc& description) {
  Product product;
  product.primitive = dnnl::matmul(description);
  product.stream = dnnl::stream(engine);
  product.source = memory(description.src_desc(), engine, nullptr);
  product.weights = memory(description.weights_desc(), engine, nullptr);
  product.target = memory(description.dst_desc(), engine, nullptr);
  product.arguments = {
      {DNNL_ARG_SRC, product.source},
      {DNNL_ARG_WEIGHTS, product.weights},
      {DNNL_ARG_DST, product.target},
      {DNNL_ARG_SCRATCHPAD, memory(description.scratchpad_desc(), engine)}};
  return product;
}

}  // namespace

Bfloat16Products::Bfloat16Products(const LinearKernels& linear,
                                   const ElementwiseKernels& elementwise,
                                   ThreadPool& pool)
    : linear_(linear),
      elementwise_(elementwise),
      pool_(pool),
      engine_(std::make_unique<Engine>()) {}

Bfloat16Products::~Bfloat16Products() = default;

// oneDNN promises no order of its sums, and chooses its kernels by height. A
// row must not tell how many rows were beside it, so this tries what holds.
bool Bfloat16Products::IsUniform(Shape& shape, void* weights) {
  Shape::Worker& worker = shape.workers[0];
  std::mt19937 random(1);
  for (uint16_t& value : worker.source) {
    // bf16 of any sign and fraction, from 1/8 to 2.
    value = static_cast<uint16_t>((random() & 0x81FF) | 0x3E00);
  }
  std::vector<float> low(kTall * shape.rows);
  const auto run_low = [&](Product& product, std::vector<float>& target) {
    for (int64_t row = 0; row < kTall; row += kLow) {
      product.Run(worker.source.data() + row * shape.columns, weights,
                  target.data() + row * shape.rows);
    }
  };
  run_low(worker.low, low);
  std::vector<float> found(low.size());
  worker.tall.Run(worker.source.data(), weights, found.data());
  if (found != low) return false;
  // Sums on top of the products themselves, in another order.
  const std::vector<float> before(low.rbegin(), low.rend());
  for (size_t i = 0; i < low.size(); ++i) low[i] += before[i];
  found = before;
  worker.tall_sum.Run(worker.source.data(), weights, found.data());
  if (found != low) return false;
  found = before;
  run_low(worker.low_sum, found);
  return found == low;
}

Bfloat16Products::Shape& Bfloat16Products::ShapeFor(int64_t rows,
                                                    int64_t columns) {
  std::unique_ptr<Shape>& shape = shapes_[{rows, columns}];
  if (shape != nullptr) return *shape;
  const SingleThreaded single_threaded;
  const dnnl::engine& engine = engine_->engine;
  auto made = std::make_unique<Shape>();
  made->rows = rows;
  made->columns = columns;
  const memory::desc any({columns, rows}, memory::data_type::bf16,
                         memory::format_tag::any);
  const auto tall = Describe(engine, kTall, rows, any, false);
  made->weights = tall.weights_desc();
  const auto tall_sum = Describe(engine, kTall, rows, made->weights, true);
  const auto low = Describe(engine, kLow, rows, made->weights, false);
  const auto low_sum = Describe(engine, kLow, rows, made->weights, true);
  for (int worker = 0; worker < pool_.threads(); ++worker) {
    made->workers.push_back({.tall = MakeProduct(engine, tall),
                             .tall_sum = MakeProduct(engine, tall_sum),
                             .low = MakeProduct(engine, low),
                             .low_sum = MakeProduct(engine, low_sum),
                             .source = std::vector<uint16_t>(kTall * columns),
                             .target = std::vector<float>(kLow * rows)});
  }
  shape = std::move(made);
  return *shape;
}

absl::StatusOr<std::unique_ptr<PackedWeight>> Bfloat16Products::Pack(
    const CpuWeight& weight) {
  try {
    return PackOrThrow(weight);
  } catch (const std::exception& error) {
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot pack a weight of ", weight.rows(), " x ",
                     weight.columns(), " as bf16: ", error.what()));
  }
}

std::unique_ptr<PackedWeight> Bfloat16Products::PackOrThrow(
    const CpuWeight& weight) {
  Shape& shape = ShapeFor(weight.rows(), weight.columns());
  std::vector<uint16_t> plain(weight.rows() * weight.columns());
  std::vector<std::vector<float>> expanded(
      pool_.threads(), std::vector<float>(weight.columns()));
  pool_.ParallelFor(
      weight.rows(), kTall, [&](int64_t begin, int64_t end, int worker) {
        for (int64_t row = begin; row < end; ++row) {
          linear_.expand_row(weight.StripOf(row).dtype, weight.RowData(row),
                             weight.columns(), expanded[worker].data());
          elementwise_.to_bfloat16(expanded[worker].data(), weight.columns(),
                                   plain.data() + row * weight.columns());
        }
      });
  const SingleThreaded single_threaded;
  const dnnl::engine& engine = engine_->engine;
  // Stored rows are the columns of the product's right operand.
  memory from(memory::desc({weight.columns(), weight.rows()},
                           memory::data_type::bf16, memory::format_tag::ba),
              engine, plain.data());
  memory to(shape.weights, engine);
  dnnl::stream stream(engine);
  dnnl::reorder(from, to).execute(stream, from, to);
  stream.wait();
  if (!shape.is_uniform.has_value()) {
    shape.is_uniform = IsUniform(shape, to.get_data_handle());
  }
  return std::make_unique<OneDnnWeight>(std::move(to));
}

void Bfloat16Products::Multiply(const PackedWeight& weight,
                                ConstMatrixView input, bool accumulate,
                                MatrixView output) {
  const auto& packed = static_cast<const OneDnnWeight&>(weight);
  const auto found = shapes_.find({packed.rows(), packed.columns()});
  SPARSESERVE_CHECK(found != shapes_.end());
  Shape& shape = *found->second;
  const bool is_uniform = *shape.is_uniform;
  const bool has_tall = is_uniform && input.rows >= kTall * pool_.threads();
  const int64_t tall_chunks = has_tall ? input.rows / kTall : 0;
  const int64_t low_rows = input.rows - tall_chunks * kTall;
  const int64_t chunks = tall_chunks + (low_rows + kLow - 1) / kLow;
  const auto run_chunk = [&](int64_t chunk, int worker_index) {
    Shape::Worker& worker = shape.workers[worker_index];
    const bool is_tall = chunk < tall_chunks;
    const int64_t first =
        is_tall ? chunk * kTall
                : tall_chunks * kTall + (chunk - tall_chunks) * kLow;
    const int64_t height = is_tall ? kTall : kLow;
    const int64_t rows = std::min(height, input.rows - first);
    elementwise_.to_bfloat16(input.row(first), rows * shape.columns,
                             worker.source.data());
    if (rows == height && (is_uniform || !accumulate)) {
      Product& product = is_tall ? (accumulate ? worker.tall_sum : worker.tall)
                                 : (accumulate ? worker.low_sum : worker.low);
      product.Run(worker.source.data(), packed.data(), output.row(first));
      return;
    }
    // Padding rows hold whatever was there: their results are dropped.
    worker.low.Run(worker.source.data(), packed.data(), worker.target.data());
    float* target = output.row(first);
    for (int64_t i = 0; i < rows * shape.rows; ++i) {
      target[i] = accumulate ? target[i] + worker.target[i] : worker.target[i];
    }
  };
  pool_.ParallelFor(chunks, 1, [&](int64_t begin, int64_t end, int worker) {
    const SingleThreaded single_threaded;
    for (int64_t chunk = begin; chunk < end; ++chunk) run_chunk(chunk, worker);
  });
}

}  // namespace sparseserve::cpu
