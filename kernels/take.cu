// Rows by index, image by image: result[n, s] = array[n, indices[n, s]]. targets.take is the specification.
//
// A thread copies a word of 1, 4, 8 or 16 bytes, the largest that a row is a multiple of, so that boxes and feature
// vectors are read in whole. Moves 8 bytes for each row and twice its own.
// instantiate: take<unsigned char>, take<int>, take<long long>, take<int4>

// array (N, rows, words), indices (N, taken), result (N, taken, words); count = N * taken * words.
template <class Word> __global__ void take(const Word *__restrict__ array, const long long *__restrict__ indices, int rows,
                                           int taken, int words, long long count, Word *result) {
  GRID_LOOP(i, count) {
    long long row = i / words, from = row / taken * rows + indices[row];
    result[i] = array[from * words + i % words];
  }
}
