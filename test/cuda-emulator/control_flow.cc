// Where lanes that a branch parted meet again: the branch's immediate post-dominator in the function's flow
// graph.
#include <algorithm>

#include "decoder.h"
#include "operations.h"

namespace slim::emulator {

namespace {

struct Block {
  uint32_t begin, end;  // of the micro-operations
  std::vector<uint32_t> successors;
};

bool endsBlock(const MicroOp& op) { return op.target != kNowhere || op.targets != nullptr || isReturn(op); }

std::vector<Block> blocksOf(const Program& program, uint32_t begin, uint32_t end) {
  std::vector<bool> leads(end - begin + 1, false);
  leads[0] = true;
  const auto lead = [&](uint32_t at) { leads[at - begin] = true; };
  for (uint32_t at = begin; at < end; at++) {
    const MicroOp& op = program.code[at];
    if (isCall(op) || !endsBlock(op)) continue;
    if (op.target != kNowhere) lead(op.target);
    if (op.targets != nullptr) {
      for (const uint32_t target : *op.targets) lead(target);
    }
    if (at + 1 < end) lead(at + 1);
  }
  std::vector<Block> blocks;
  std::vector<uint32_t> blockAt(end - begin, 0);
  for (uint32_t at = begin; at < end; at++) {
    if (leads[at - begin]) blocks.push_back({at, at, {}});
    blocks.back().end = at + 1;
    blockAt[at - begin] = static_cast<uint32_t>(blocks.size() - 1);
  }
  const auto exit = static_cast<uint32_t>(blocks.size());
  for (Block& block : blocks) {
    const MicroOp& last = program.code[block.end - 1];
    bool fallsThrough = true;
    if (!isCall(last) && endsBlock(last)) {
      fallsThrough = last.guard >= 0;
      if (last.target != kNowhere) block.successors.push_back(blockAt[last.target - begin]);
      if (last.targets != nullptr) {
        for (const uint32_t target : *last.targets) block.successors.push_back(blockAt[target - begin]);
      }
      if (isReturn(last)) block.successors.push_back(exit);
    }
    if (fallsThrough) block.successors.push_back(block.end < end ? blockAt[block.end - begin] : exit);
  }
  return blocks;
}

}  // namespace

// Cooper, Harvey and Kennedy's iteration, on the graph with its edges turned round: the exit is the root.
void setReconvergence(Program& program, uint32_t begin, uint32_t end) {
  const std::vector<Block> blocks = blocksOf(program, begin, end);
  const auto exit = static_cast<uint32_t>(blocks.size());
  std::vector<std::vector<uint32_t>> predecessors(blocks.size() + 1);
  for (uint32_t b = 0; b < exit; b++) {
    for (const uint32_t successor : blocks[b].successors) predecessors[successor].push_back(b);
  }
  // Postorder of the reversed graph from the exit; blocks of endless loops are not reached and never
  // reconverge.
  std::vector<uint32_t> order, number(blocks.size() + 1, kNowhere);
  std::vector<std::pair<uint32_t, size_t>> walk{{exit, 0}};
  std::vector<bool> seen(blocks.size() + 1, false);
  seen[exit] = true;
  while (!walk.empty()) {
    auto& [block, next] = walk.back();
    if (next < predecessors[block].size()) {
      const uint32_t predecessor = predecessors[block][next++];
      if (!seen[predecessor]) {
        seen[predecessor] = true;
        walk.emplace_back(predecessor, 0);
      }
    } else {
      number[block] = static_cast<uint32_t>(order.size());
      order.push_back(block);
      walk.pop_back();
    }
  }
  std::vector<uint32_t> dominator(blocks.size() + 1, kNowhere);
  dominator[exit] = exit;
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t i = order.size() - 1; i-- > 0;) {
      const uint32_t block = order[i];
      uint32_t common = kNowhere;
      for (uint32_t other : blocks[block].successors) {
        if (dominator[other] == kNowhere) continue;
        if (common == kNowhere) {
          common = other;
          continue;
        }
        while (other != common) {
          while (number[other] < number[common]) other = dominator[other];
          while (number[common] < number[other]) common = dominator[common];
        }
      }
      if (dominator[block] != common) {
        dominator[block] = common;
        changed = true;
      }
    }
  }
  for (uint32_t b = 0; b < exit; b++) {
    MicroOp& last = program.code[blocks[b].end - 1];
    if (isCall(last) || !endsBlock(last)) continue;
    const uint32_t meets = dominator[b];
    last.reconverge = meets == kNowhere || meets == exit ? kNowhere : blocks[meets].begin;
    // Lanes do not wait for each other to leave: an early return is an exit of its own, as ptxas makes it.
    if (last.reconverge != kNowhere && isReturn(program.code[last.reconverge])) last.reconverge = kNowhere;
  }
}

}  // namespace slim::emulator
