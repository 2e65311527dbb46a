// Checks each read and write of a kernel: is it inside an array, and is it ordered with those of other threads?
//
// g++ inserts calls of __tsan_read4(address) and similar functions before each access (-fsanitize=thread), and calls of
// __ubsan_handle_... for invalid arithmetic (-fsanitize=bounds,alignment,...). These functions are defined here instead
// of in the compiler's libraries.
//
// If different threads access the same number and one of them writes, there must be a barrier in between: of the
// block, or of the warp if both belong to the same warp. No barrier orders threads of different blocks. Atomic
// operations need no order among themselves, and two threads may write the same bits.
#define UNWATCHED __attribute__((no_sanitize("thread"), no_sanitize("undefined")))

namespace mc {
struct Last {  // which thread accessed a number last, and how many times its barriers had opened by then
  uint32_t thread = 0;  // 1 + index in the grid; 0: none yet
  uint8_t many = 0;     // several readers: 1 in the same warp, 2 in the same block, 3 in several blocks
  uint8_t atomic = 0;
  uint32_t block_round = 0, warp_round = 0;
};
struct Cell {
  Last write, read;
};
struct Watched {
  Memory memory;
  Cell *cells;
};
constexpr int MOST = 256;
static Watched watched[MOST];  // arguments, then static, then dynamic shared memory
static int watched_count, shared_from;
static std::vector<std::vector<Cell>> all_cells(MOST);
extern "C" char __ehdr_start[] HIDDEN, _end[] HIDDEN;  // this library

// A write after another thread's write is an error if it changes the value, which is known at the next access.
static struct {
  bool open;
  char before[16];
  const char *at;
  size_t bytes, index;
  Watched *in;
  Last last;
  const void *from;
} doubtful;

static void watch(char *begin, size_t bytes, size_t granule) {
  std::vector<Cell> &cells = all_cells[watched_count];
  cells.assign((bytes + granule - 1) / granule, Cell());
  watched[watched_count++] = {{begin, bytes, granule}, cells.data()};
}

static void begin_checking(const Memory *arrays, int count, size_t dynamic) {
  watched_count = 0;
  doubtful.open = false;
  for (int i = 0; i < count; i++) watch(arrays[i].begin, arrays[i].bytes, min<size_t>(arrays[i].granule, 4));
  shared_from = watched_count;
  watch(static_shared, MOST_STATIC, 1);
  watch(dynamic_shared, dynamic, 1);
}

// from: an address in the kernel's code; Python looks up its line.
static void report(const std::string &text, const void *from) {
  quiet = 1;
  fail(text + " @" + std::to_string((char *)from - __ehdr_start));
  pause();
}

UNWATCHED static inline uint32_t own_number() {
  const uint64_t b = (block_index.z * (uint64_t)grid.y + block_index.y) * grid.x + block_index.x;
  return 1 + b * (block.x * block.y * block.z) + self->number;
}

// Whether the access recorded in `last` is ordered before the current access of this thread.
UNWATCHED static inline bool ordered(const Last &last, uint32_t own, bool shared) {
  if (!last.thread || (last.thread == own && !last.many)) return true;
  const uint32_t in_block = block.x * block.y * block.z, a = last.thread - 1, b = own - 1;
  if (last.many == 3) return false;
  if (a / in_block != b / in_block) return shared;  // each block has its own shared memory
  if (last.block_round != (uint32_t)block_barrier.round) return true;
  return last.many < 2 && a % in_block / 32 == b % in_block / 32 && last.warp_round != (uint32_t)self->warp->rounds;
}

UNWATCHED static inline void remember(Last &last, uint32_t own, bool atomic, uint8_t many) {
  last.thread = own;
  last.many = many;
  last.atomic = atomic;
  last.block_round = block_barrier.round;
  last.warp_round = self->warp->rounds;
}

NOINLINE static void report_race(const Watched &w, size_t index, const Last &last, Access access, bool was_write,
                                 const void *from) {
  quiet = 1;
  const bool shared = &w - watched >= shared_from;
  const int in_block = block.x * block.y * block.z, a = last.thread - 1, b = own_number() - 1;
  auto name = [=](int number) {
    return "thread " + std::to_string(number % in_block) + " of block " + std::to_string(number / in_block);
  };
  report("race: " + name(b) + (access == READ ? " reads " : access == WRITE ? " writes " : " changes ") +
             (shared ? "byte " + std::to_string(index) + " of shared memory"
                     : "element " + std::to_string(index) + " of array " + std::to_string(&w - watched)) +
             ", which " + name(a) + (was_write ? " wrote" : " read") + ", with no barrier in between",
         from);
}

NOINLINE static void report_outside(const char *at, size_t bytes, Access access, const void *from) {
  quiet = 1;
  std::string near;
  for (int i = 0; i < watched_count; i++) {
    Memory m = watched[i].memory;
    if (i == shared_from) m.bytes = static_used;
    if (at + bytes > m.begin - 4096 && at < m.begin + m.bytes + 4096)
      near += " (" + std::to_string(at - m.begin) + " bytes after the beginning of " +
              (i < shared_from ? "array " + std::to_string(i) : "shared memory") + ", which has " +
              std::to_string(m.bytes) + " bytes)";
  }
  report(std::string(access == READ ? "reads" : "writes") + " outside of all arrays" + near, from);
}

UNWATCHED inline void settle() {
  if (!doubtful.open) return;
  doubtful.open = false;
  if (memcmp(doubtful.at, doubtful.before, doubtful.bytes))
    report_race(*doubtful.in, doubtful.index, doubtful.last, WRITE, true, doubtful.from);
}

NOINLINE static void doubt(Watched &w, size_t index, const Last &last, const char *at, size_t bytes, const void *from) {
  Quiet q;
  doubtful = {true, {}, at, bytes, index, &w, last, from};
  memcpy(doubtful.before, at, bytes);
}

UNWATCHED static void check(const char *at, size_t bytes, Access access, const void *from) {
  settle();
  const uint32_t own = own_number();
  for (int i = 0; i < watched_count; i++) {
    Watched &w = watched[i];
    const size_t size = i == shared_from ? static_used : w.memory.bytes;
    if (at < w.memory.begin || at + bytes > w.memory.begin + size) continue;
    const bool shared = i >= shared_from;
    const size_t step = shared ? (bytes >= 4 ? 4 : bytes) : w.memory.granule < 4 ? w.memory.granule : 4;
    for (size_t offset = 0; offset < bytes; offset += step) {
      const size_t index = shared ? at + offset - w.memory.begin : (at + offset - w.memory.begin) / step;
      Cell &cell = w.cells[index];
      const bool atomic = access == ATOMIC;
      if (!(atomic && cell.write.atomic) && !ordered(cell.write, own, shared)) {
        if (access == WRITE && !cell.write.atomic && bytes <= 16 && ordered(cell.read, own, shared)) {
          doubt(w, index, cell.write, at, bytes, from);
          remember(cell.write, own, false, 0);
          continue;
        }
        report_race(w, index, cell.write, access, true, from);
        return;
      }
      if (access == READ) {
        Last &r = cell.read;
        uint8_t many = 0;
        if (!ordered(r, own, shared)) {  // several readers: the next write must come after all of them
          const uint32_t in_block = block.x * block.y * block.z, a = r.thread - 1, b = own - 1;
          many = a / in_block != b / in_block ? 3 : a % in_block / 32 != b % in_block / 32 ? 2 : 1;
          if (r.many > many) many = r.many;
        }
        remember(r, own, false, many);
      } else {
        if (!ordered(cell.read, own, shared)) {
          report_race(w, index, cell.read, access, false, from);
          return;
        }
        remember(cell.write, own, atomic, 0);
      }
    }
    return;
  }
  const char *stack = (const char *)self->stack;
  if ((at >= stack && at + bytes <= stack + STACK) || (at >= __ehdr_start && at + bytes <= _end)) return;
  report_outside(at, bytes, access, from);
}

UNWATCHED inline void look_at(const void *address, size_t bytes, Access access) {
  check((const char *)address, bytes, access, __builtin_return_address(0));
}
}  // namespace mc

#define HOOK(NAME, ACCESS, BYTES)                                                                              \
  extern "C" NOINLINE UNWATCHED HIDDEN void NAME(void *at) {                                                   \
    if (!mc::quiet) mc::check((const char *)at, BYTES, ACCESS, __builtin_return_address(0));                   \
  }
#define HOOKS(BYTES)                                   \
  HOOK(__tsan_read##BYTES, mc::READ, BYTES)            \
  HOOK(__tsan_write##BYTES, mc::WRITE, BYTES)          \
  HOOK(__tsan_unaligned_read##BYTES, mc::READ, BYTES)  \
  HOOK(__tsan_unaligned_write##BYTES, mc::WRITE, BYTES)
HOOKS(1) HOOKS(2) HOOKS(4) HOOKS(8) HOOKS(16)
extern "C" {
NOINLINE UNWATCHED HIDDEN void __tsan_read_range(void *at, unsigned long bytes) {
  if (!mc::quiet) mc::check((const char *)at, bytes, mc::READ, __builtin_return_address(0));
}
NOINLINE UNWATCHED HIDDEN void __tsan_write_range(void *at, unsigned long bytes) {
  if (!mc::quiet) mc::check((const char *)at, bytes, mc::WRITE, __builtin_return_address(0));
}
UNWATCHED HIDDEN void __tsan_init() {}
UNWATCHED HIDDEN void __tsan_func_entry(void *) {}
UNWATCHED HIDDEN void __tsan_func_exit() {}
UNWATCHED HIDDEN void __tsan_vptr_update(void **, void *) {}

#define WRONG(NAME, TEXT, ...)                                                       \
  NOINLINE UNWATCHED HIDDEN void __ubsan_handle_##NAME(void *, __VA_ARGS__) {         \
    if (mc::quiet) return;                                                           \
    mc::quiet = 1;                                                                   \
    mc::report(TEXT, __builtin_return_address(0));                                   \
  }
WRONG(out_of_bounds, "an index outside of its array", void *)
WRONG(type_mismatch_v1, "a misaligned address", void *)
WRONG(divrem_overflow, "an integer divided by zero", void *, void *)
WRONG(add_overflow, "an int becomes too large in a sum", void *, void *)
WRONG(sub_overflow, "an int becomes too large in a difference", void *, void *)
WRONG(mul_overflow, "an int becomes too large in a product", void *, void *)
WRONG(negate_overflow, "an int is too large to be negated", void *)
WRONG(shift_out_of_bounds, "a shift by too many bits", void *, void *)
}
