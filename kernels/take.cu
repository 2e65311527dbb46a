// Rows by index, image by image: result[n, s] = array[n, indices[n, s]], as in targets.take.
//
// One thread per word of 1, 4, 8 or 16 bytes: the largest of these that divides the bytes of a row, so a box is one word.
// Moves 8 bytes per row for its index, and twice the bytes of the row.
// instantiate: take<unsigned char>, take<int>, take<long long>, take<int4>

// array (N, rows, words), indices (N, taken), result (N, taken, words); count = N * taken * words.
template <class Word> __global__ void take(const Word *__restrict__ array, const long long *__restrict__ indices, int rows,
                                           int taken, int words, long long count, Word *result) {
  GRID_LOOP(i, count) {
    long long row = i / words, from = row / taken * rows + indices[row];
    result[i] = array[from * words + i % words];
  }
}
