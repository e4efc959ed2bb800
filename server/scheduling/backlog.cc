#include "server/scheduling/backlog.h"

#include <utility>

#include "engine/base/check.h"

namespace sparseserve {

Backlog& Backlog::operator+=(const Backlog& other) {
  requests += other.requests;
  work += other.work;
  output_tokens += other.output_tokens;
  return *this;
}

// A heap by `weight`, in order of `rank`.
struct BacklogTree::Node {
  Rank rank;
  uint32_t weight = 0;
  Backlog own;
  Backlog sum;  // with both below
  Tree before;
  Tree behind;
};

BacklogTree::BacklogTree() = default;
BacklogTree::~BacklogTree() = default;

void BacklogTree::Update(Node& node) {
  node.sum = node.own;
  if (node.before != nullptr) node.sum += node.before->sum;
  if (node.behind != nullptr) node.sum += node.behind->sum;
}

void BacklogTree::Split(Tree tree, const Rank& rank, Tree& before, Tree& rest) {
  if (tree == nullptr) {
    before = nullptr;
    rest = nullptr;
    return;
  }
  Tree middle;
  Node& node = *tree;
  if (node.rank < rank) {
    Split(std::move(node.behind), rank, middle, rest);
    node.behind = std::move(middle);
    Update(node);
    before = std::move(tree);
  } else {
    Split(std::move(node.before), rank, before, middle);
    node.before = std::move(middle);
    Update(node);
    rest = std::move(tree);
  }
}

BacklogTree::Tree BacklogTree::Join(Tree before, Tree rest) {
  if (before == nullptr) return rest;
  if (rest == nullptr) return before;
  if (before->weight > rest->weight) {
    before->behind = Join(std::move(before->behind), std::move(rest));
    Update(*before);
    return before;
  }
  rest->before = Join(std::move(before), std::move(rest->before));
  Update(*rest);
  return rest;
}

void BacklogTree::Insert(Tree& tree, Tree node) {
  if (tree == nullptr || node->weight > tree->weight) {
    const Rank rank = node->rank;
    Split(std::move(tree), rank, node->before, node->behind);
    tree = std::move(node);
  } else {
    Tree& child = node->rank < tree->rank ? tree->before : tree->behind;
    Insert(child, std::move(node));
  }
  Update(*tree);
}

void BacklogTree::Erase(Tree& tree, const Rank& rank) {
  SPARSESERVE_CHECK(tree != nullptr);
  if (rank < tree->rank) {
    Erase(tree->before, rank);
  } else if (tree->rank < rank) {
    Erase(tree->behind, rank);
  } else {
    tree = Join(std::move(tree->before), std::move(tree->behind));
    return;
  }
  Update(*tree);
}

// Marsaglia, "Xorshift RNGs", 2003: enough to keep the tree flat.
uint32_t BacklogTree::Draw() {
  random_ ^= random_ << 13;
  random_ ^= random_ >> 17;
  random_ ^= random_ << 5;
  return random_;
}

void BacklogTree::Add(const Rank& rank, const Backlog& backlog) {
  auto node = std::make_unique<Node>();
  node->rank = rank;
  node->weight = Draw();
  node->own = backlog;
  Insert(root_, std::move(node));
}

void BacklogTree::Remove(const Rank& rank) { Erase(root_, rank); }

Backlog BacklogTree::Before(const Rank& rank) const {
  Backlog sum;
  const Node* node = root_.get();
  while (node != nullptr) {
    if (node->rank < rank) {
      sum += node->own;
      if (node->before != nullptr) sum += node->before->sum;
      node = node->behind.get();
    } else {
      node = node->before.get();
    }
  }
  return sum;
}

}  // namespace sparseserve
