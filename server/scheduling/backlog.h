#pragma once

#include <cstdint>
#include <memory>

#include "server/scheduling/rank.h"
#include "server/scheduling/step_cost_model.h"

namespace sparseserve {

// What some of those that wait need.
struct Backlog {
  int requests = 0;
  StepWork work;             // of their prompts
  double output_tokens = 0;  // that they can come to write

  Backlog& operator+=(const Backlog& other);
};

// What waits, summed over all that go before a rank: a treap (Seidel and
// Aragon, "Randomized search trees", 1996) whose nodes hold the sum of their
// subtree, made anew from its parts at each change, so that rounding adds up
// to nothing. Each call costs the logarithm of how many there are. Serving
// thread only.
class BacklogTree {
 public:
  BacklogTree();
  ~BacklogTree();

  // REQUIRES: no other with this rank.
  void Add(const Rank& rank, const Backlog& backlog);
  // REQUIRES: it was added.
  void Remove(const Rank& rank);
  // The sum of all smaller ranks.
  Backlog Before(const Rank& rank) const;

 private:
  struct Node;
  using Tree = std::unique_ptr<Node>;

  static void Update(Node& node);
  // Into those before `rank` and the others.
  static void Split(Tree tree, const Rank& rank, Tree& before, Tree& rest);
  static Tree Join(Tree before, Tree rest);
  static void Insert(Tree& tree, Tree node);
  static void Erase(Tree& tree, const Rank& rank);
  uint32_t Draw();

  Tree root_;
  uint32_t random_ = 1;
};

}  // namespace sparseserve
