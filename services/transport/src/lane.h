// A bounded queue from many threads to one that works it off, a batch at a time.
//
// Waking that thread costs more than a small batch does. So a thread that brings an item while
// nobody is at work may do the work itself; what comes in the meantime waits for the other.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

namespace tutelage {

template <typename Item>
class Lane {
 public:
  // most_items, most_bytes: what may wait; an item larger than that is still taken alone.
  Lane(std::size_t most_items, std::size_t most_bytes)
      : most_items_(most_items), most_bytes_(most_bytes) {}

  enum class Pushed { kRefused, kWaits, kLeads };

  // kRefused: there is no room, or the lane is closed. kLeads: nobody was at work, and now the
  // caller is: it is to handle the item, which was not kept, and then say so with `rest`.
  // bytes: how much memory the item holds.
  Pushed push(Item item, std::size_t bytes, bool may_lead) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (closed_) return Pushed::kRefused;
      const bool alone = items_.empty();
      if (!alone && (items_.size() >= most_items_ || bytes_ + bytes > most_bytes_)) {
        return Pushed::kRefused;
      }
      // Where items came in company a moment ago, this one is worth waiting with for others.
      if (may_lead && alone && !at_work_ && last_taken_ == 1) {
        at_work_ = true;
        return Pushed::kLeads;
      }
      items_.emplace_back(std::move(item), bytes);
      bytes_ += bytes;
      if (at_work_ || !alone) return Pushed::kWaits;
    }
    filled_.notify_one();
    return Pushed::kWaits;
  }

  // Whoever leads has handled its item, and is given the next to go on with if it likes to
  // and that is the only one. Nothing: it leads no more.
  std::optional<Item> rest(bool may_go_on) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (may_go_on && items_.size() == 1) {
        std::optional<Item> next(std::move(items_.front().first));
        bytes_ -= items_.front().second;
        items_.pop_front();
        return next;
      }
      at_work_ = false;
      if (items_.empty() && !closed_) return {};
    }
    filled_.notify_one();
    return {};
  }

  // Rests, waits for the first item, and takes all there are, up to `most`, to work. Nothing:
  // the lane is closed. For one thread.
  std::vector<Item> take(std::size_t most) {
    std::unique_lock<std::mutex> lock(mutex_);
    if (taking_) at_work_ = false;
    filled_.wait(lock, [this] { return !at_work_ && (closed_ || !items_.empty()); });
    taking_ = at_work_ = !items_.empty();
    std::vector<Item> taken;
    last_taken_ = std::min(most, items_.size());
    taken.reserve(last_taken_);
    while (!items_.empty() && taken.size() < most) {
      taken.push_back(std::move(items_.front().first));
      bytes_ -= items_.front().second;
      items_.pop_front();
    }
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
  std::size_t last_taken_ = 1;  // at once
  bool closed_ = false;
  // Somebody handles items, one thread at a time; and that is the one that takes. So it is until
  // it takes for the first time: before that, nobody is ready for items.
  bool at_work_ = true, taking_ = true;
};

}  // namespace tutelage
