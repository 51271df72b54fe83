/* transpose_loops: what transpose.c says for one element size. It defines SIZE, the bytes of an
 * element, before it includes this, which undefines it. No include guard, on purpose. */
#define PASTE_(name, size) name##_##size
#define PASTE(name, size) PASTE_(name, size)
#define NAME(name) PASTE(name, SIZE)
#define LANES (VECTOR_BYTES / SIZE)
#define VECTOR PASTE(vector, SIZE)
#define LOW PASTE(LOW, SIZE)
#define HIGH PASTE(HIGH, SIZE)
#define EVEN PASTE(EVEN, SIZE)
#define ODD PASTE(ODD, SIZE)

INLINE VECTOR NAME(load)(const unsigned char *from)
{
    VECTOR v;
    memcpy(&v, from, sizeof v);
    return v;
}

/* Half number h of the vectors, as the low half of what is returned. */
INLINE VECTOR NAME(half)(const VECTOR *v, int h)
{
    vector_8 whole = (vector_8)v[h / 2];
    return h % 2 == 0 ? v[h / 2] : (VECTOR)PICK(whole, whole, 1, 1);
}

/* A perfect shuffle: the halves of the row of vectors, an element of the one and of the other. */
INLINE void NAME(shuffle)(VECTOR *v, int n)
{
    VECTOR t[LANES];
    UNROLLED
    for (int i = 0; i < n; i++) {
        if (n % 2 == 1)
            t[i] = PICK(NAME(half)(v, i), NAME(half)(v, i + n), LOW);
        else if (i % 2 == 0)
            t[i] = PICK(v[i / 2], v[(i + n) / 2], LOW);
        else
            t[i] = PICK(v[i / 2], v[(i + n) / 2], HIGH);
    }
    UNROLLED
    for (int i = 0; i < n; i++)
        v[i] = t[i];
}

/* The way back: the elements at even places, then those at odd ones. */
INLINE void NAME(unshuffle)(VECTOR *v, int n)
{
    VECTOR t[LANES];
    UNROLLED
    for (int i = 0; i < n; i++) {
        VECTOR a = v[2 * i % n], b = v[(2 * i + 1) % n];
        if (2 * i + 1 < n)
            t[i] = PICK(a, b, EVEN);
        else if (2 * i >= n)
            t[i] = PICK(a, b, ODD);
        else /* half of the one, half of the other */
            t[i] = (VECTOR)PICK((vector_8)PICK(a, a, EVEN), (vector_8)PICK(b, b, ODD), 0, 2);
    }
    UNROLLED
    for (int i = 0; i < n; i++)
        v[i] = t[i];
}

INLINE void NAME(block)(const unsigned char *in, ptrdiff_t in_step, unsigned char *out,
                        ptrdiff_t out_step)
{
    VECTOR v[LANES];
    UNROLLED
    for (int i = 0; i < LANES; i++)
        v[i] = NAME(load)(in + i * in_step);
    UNROLLED
    for (int i = 1; i < LANES; i *= 2)
        NAME(shuffle)(v, LANES);
    UNROLLED
    for (int i = 0; i < LANES; i++)
        memcpy(out + i * out_step, &v[i], VECTOR_BYTES);
}

/* LANES rows, at least as many columns; the last block ends where the rows do, and does some
 * elements again. */
INLINE void NAME(row_of_blocks)(const unsigned char *in, ptrdiff_t in_step, unsigned char *out,
                                ptrdiff_t out_step, ptrdiff_t columns)
{
    ptrdiff_t rest = columns % LANES;
    for (ptrdiff_t c = LANES; c <= columns; c += LANES) {
        NAME(block)(in, in_step, out, out_step);
        in += VECTOR_BYTES;
        out += LANES * out_step;
    }
    if (rest > 0)
        NAME(block)(in + (rest - LANES) * SIZE, in_step, out + (rest - LANES) * out_step, out_step);
}

static void NAME(blocks)(const unsigned char *in, ptrdiff_t in_step, unsigned char *out,
                         ptrdiff_t out_step, ptrdiff_t rows, ptrdiff_t columns)
{
    for (ptrdiff_t r = 0; r < rows; r += LANES) {
        ptrdiff_t row = r < rows - LANES ? r : rows - LANES;
        NAME(row_of_blocks)(in + row * in_step, in_step, out + row * SIZE, out_step, columns);
    }
}

static void NAME(plain)(const unsigned char *in, ptrdiff_t in_step, unsigned char *out,
                        ptrdiff_t out_step, ptrdiff_t rows, ptrdiff_t columns)
{
    for (ptrdiff_t r = 0; r < rows; r++)
        for (ptrdiff_t c = 0; c < columns; c++)
            memcpy(out + c * out_step + r * SIZE, in + r * in_step + c * SIZE, SIZE);
}

/* n columns, without gaps between the rows: taken apart. */
INLINE void NAME(take_apart)(const unsigned char *in, unsigned char *out, ptrdiff_t out_step,
                             ptrdiff_t rows, int n)
{
    ptrdiff_t r = 0;
    for (; r + LANES <= rows; r += LANES) {
        VECTOR v[LANES];
        UNROLLED
        for (int i = 0; i < n; i++)
            v[i] = NAME(load)(in + r * n * SIZE + i * VECTOR_BYTES);
        UNROLLED
        for (int i = 1; i < LANES; i *= 2)
            NAME(shuffle)(v, n);
        UNROLLED
        for (int i = 0; i < n; i++)
            memcpy(out + i * out_step + r * SIZE, &v[i], VECTOR_BYTES);
    }
    NAME(plain)(in + r * n * SIZE, n * SIZE, out + r * SIZE, out_step, rows - r, n);
}

/* n rows that become n columns without gaps: put together. */
INLINE void NAME(put_together)(const unsigned char *in, ptrdiff_t in_step, unsigned char *out,
                               ptrdiff_t columns, int n)
{
    ptrdiff_t c = 0;
    for (; c + LANES <= columns; c += LANES) {
        VECTOR v[LANES];
        UNROLLED
        for (int i = 0; i < n; i++)
            v[i] = NAME(load)(in + i * in_step + c * SIZE);
        UNROLLED
        for (int i = 1; i < LANES; i *= 2)
            NAME(unshuffle)(v, n);
        UNROLLED
        for (int i = 0; i < n; i++)
            memcpy(out + c * n * SIZE + i * VECTOR_BYTES, &v[i], VECTOR_BYTES);
    }
    NAME(plain)(in + c * SIZE, in_step, out + c * n * SIZE, n * SIZE, n, columns - c);
}

#if SIZE == 2
/* Three rows of them, for which unshuffling takes three times as long without a shuffle of bytes:
 * each triple is stored as the low 6 bytes of 8, and the next one is stored over the rest. */
INLINE void put_triples(const unsigned char *in, ptrdiff_t in_step, unsigned char *out,
                        ptrdiff_t columns)
{
    const vector_2 none = {0};
    ptrdiff_t c = 0;
    for (; c + LANES < columns; c += LANES) {
        vector_2 v[3];
        UNROLLED
        for (int i = 0; i < 3; i++)
            v[i] = load_2(in + i * in_step + c * 2);
        const vector_4 pairs[2] = {(vector_4)PICK(v[0], v[1], LOW_2),
                                   (vector_4)PICK(v[0], v[1], HIGH_2)};
        const vector_4 thirds[2] = {(vector_4)PICK(v[2], none, LOW_2),
                                    (vector_4)PICK(v[2], none, HIGH_2)};
        UNROLLED
        for (int i = 0; i < 4; i++) {
            const vector_4 pair = pairs[i / 2], third = thirds[i / 2];
            const vector_8 triples = i % 2 == 0 ? (vector_8)PICK(pair, third, LOW_4)
                                                : (vector_8)PICK(pair, third, HIGH_4);
            const uint64_t first = triples[0], second = triples[1];
            memcpy(out + (c + 2 * i) * 6, &first, sizeof first);
            memcpy(out + (c + 2 * i + 1) * 6, &second, sizeof second);
        }
    }
    plain_2(in + c * 2, in_step, out + c * 6, 6, 3, columns - c);
}
#endif

static void NAME(transpose)(const void *from, ptrdiff_t in_step, void *to, ptrdiff_t out_step,
                            size_t row_count, size_t column_count)
{
    const unsigned char *in = from;
    unsigned char *out = to;
    ptrdiff_t rows = (ptrdiff_t)row_count, columns = (ptrdiff_t)column_count;
    if (rows >= LANES && columns >= LANES)
        NAME(blocks)(in, in_step, out, out_step, rows, columns);
#if SIZE == 2
    else if (rows == 3 && out_step == 3 * SIZE)
        put_triples(in, in_step, out, columns);
#endif
#if SIZE < 8
    else if (columns == 2 && in_step == 2 * SIZE)
        NAME(take_apart)(in, out, out_step, rows, 2);
    else if (columns == 3 && in_step == 3 * SIZE)
        NAME(take_apart)(in, out, out_step, rows, 3);
    else if (rows == 2 && out_step == 2 * SIZE)
        NAME(put_together)(in, in_step, out, columns, 2);
    else if (rows == 3 && out_step == 3 * SIZE)
        NAME(put_together)(in, in_step, out, columns, 3);
#endif
#if SIZE < 4
    else if (columns == 4 && in_step == 4 * SIZE)
        NAME(take_apart)(in, out, out_step, rows, 4);
    else if (rows == 4 && out_step == 4 * SIZE)
        NAME(put_together)(in, in_step, out, columns, 4);
#endif
    else
        NAME(plain)(in, in_step, out, out_step, rows, columns);
}

#undef PASTE_
#undef PASTE
#undef NAME
#undef LANES
#undef VECTOR
#undef LOW
#undef HIGH
#undef EVEN
#undef ODD
#undef SIZE
