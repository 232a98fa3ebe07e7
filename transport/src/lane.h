// A bounded queue from many threads to the ones that work it off, a batch at a time.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <mutex>
#include <utility>
#include <vector>

namespace tutelage {

template <typename Item>
class Lane {
 public:
  // most_items, most_bytes: what may wait; an item larger than that is still taken alone.
  Lane(std::size_t most_items, std::size_t most_bytes)
      : most_items_(most_items), most_bytes_(most_bytes) {}

  // False when there is no room, or the lane is closed. bytes: how much memory the item holds.
  bool push(Item item, std::size_t bytes) {
    bool was_empty;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (closed_) return false;
      was_empty = items_.empty();
      if (!was_empty && (items_.size() >= most_items_ || bytes_ + bytes > most_bytes_)) return false;
      items_.emplace_back(std::move(item), bytes);
      bytes_ += bytes;
    }
    if (was_empty) filled_.notify_one();
    return true;
  }

  // Waits for the first item and takes all there are, up to `most`. Nothing: the lane is closed.
  std::vector<Item> take(std::size_t most) {
    std::unique_lock<std::mutex> lock(mutex_);
    filled_.wait(lock, [this] { return closed_ || !items_.empty(); });
    std::vector<Item> taken;
    taken.reserve(std::min(most, items_.size()));
    while (!items_.empty() && taken.size() < most) {
      taken.push_back(std::move(items_.front().first));
      bytes_ -= items_.front().second;
      items_.pop_front();
    }
    if (!items_.empty()) filled_.notify_one();
    return taken;
  }

  // What waits is still taken; nothing new comes in.
  void close() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      closed_ = true;
    }
    filled_.notify_all();
  }

 private:
  const std::size_t most_items_, most_bytes_;
  std::mutex mutex_;
  std::condition_variable filled_;
  std::deque<std::pair<Item, std::size_t>> items_;
  std::size_t bytes_ = 0;
  bool closed_ = false;
};

}  // namespace tutelage
