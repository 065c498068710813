// What `cargo xtask bench cpu` measures: one program of each kind, without a C library, for Linux on x86-64.
//
// Those that are named as arguments run, or all. Each prints a line before it begins and one after it ends, with what it
// worked out: whoever reads them takes the time (a guest's own clock need not be real time), and compares the results.
// Each takes some 200 million instructions.

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long u64;

static long call3(long number, long a, long b, long c)
{
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
}

enum { SYS_WRITE = 1, SYS_EXIT = 60 };

static void print(const char *text)
{
    long len = 0;
    while (text[len])
        len++;
    call3(SYS_WRITE, 1, (long)text, len);
}

static void line(const char *name, const char *what, const u64 *result)
{
    static char text[128];
    char *to = text;
    for (const char *from = "BENCH "; *from;)
        *to++ = *from++;
    while (*name)
        *to++ = *name++;
    *to++ = ' ';
    while (*what)
        *to++ = *what++;
    if (result) {
        *to++ = ' ';
        for (int shift = 60; shift >= 0; shift -= 4)
            *to++ = "0123456789abcdef"[*result >> shift & 15];
    }
    *to++ = '\n';
    *to = 0;
    print(text);
}

// Without a library, the compiler still asks for these.
void *memset(void *to, int value, u64 len)
{
    void *at = to;
    __asm__ volatile("rep stosb" : "+D"(at), "+c"(len) : "a"(value) : "memory");
    return to;
}

void *memcpy(void *to, const void *from, u64 len)
{
    void *at = to;
    __asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(len) : : "memory");
    return to;
}

enum { BYTES = 16 << 20 };
static u8 arena[BYTES] __attribute__((aligned(4096)));
static u8 other[BYTES] __attribute__((aligned(4096)));

// Adds, multiplications, shifts, rotations: registers only.
static u64 integer(void)
{
    u64 a = 1, b = 0x9e3779b97f4a7c15, c = 7;
    for (u32 i = 0; i < 20000000; i++) {
        a = a * 6364136223846793005 + b;
        b = (b << 13 | b >> 51) ^ a;
        c += (u32)(a >> 32) ^ (u32)b;
        c ^= c >> 7;
    }
    return a ^ b ^ c;
}

// Collatz: a branch on the data, every other time.
static u64 branch(void)
{
    u64 sum = 0;
    for (u32 start = 1; start < 350000; start++)
        for (u64 n = start; n != 1; sum++) {
            if (n & 1)
                n = 3 * n + 1;
            else
                n >>= 1;
            __asm__ volatile("" : "+r"(n));
        }
    return sum;
}

// A sieve, and a walk from place to place.
static u64 memory(void)
{
    u64 sum = 0;
    for (u32 round = 0; round < 2; round++) {
        for (u32 i = 0; i < BYTES; i++)
            arena[i] = 1;
        for (u32 i = 2; i < 4096; i++)
            if (arena[i])
                for (u32 j = i * i; j < BYTES; j += i)
                    arena[j] = 0;
        for (u32 i = 2; i < BYTES; i++)
            sum += arena[i];
    }
    u32 *words = (u32 *)other;
    u32 count = BYTES / 4;
    for (u32 i = 0; i < count; i++)
        words[i] = (i * 2654435761u + 12345) % count;
    u32 at = 1;
    for (u32 i = 0; i < 4000000; i++) {
        at = words[at];
        sum += at;
        words[at] ^= 1;
    }
    return sum;
}

__attribute__((noinline)) static u64 fibonacci(u32 n)
{
    __asm__ volatile("");
    return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
}

// Calls and returns.
static u64 calls(void)
{
    return fibonacci(34);
}

typedef float f32x4 __attribute__((vector_size(16)));
typedef double f64x2 __attribute__((vector_size(16)));
typedef int i32x4 __attribute__((vector_size(16)));
typedef short i16x8 __attribute__((vector_size(16)));

// Vectors of floats, doubles and integers.
static u64 sse2(void)
{
    f32x4 a = {1, 2, 3, 4}, b = {0.5f, 0.25f, 0.125f, 2};
    f64x2 c = {1, 2}, d = {0.75, 1.25};
    i32x4 e = {1, 2, 3, 4}, f = {5, 6, 7, 8};
    i16x8 g = {1, 2, 3, 4, 5, 6, 7, 8}, h = {3, 1, 4, 1, 5, 9, 2, 6};
    for (u32 i = 0; i < 6000000; i++) {
        a = a * b + b;
        b = b * 0.999f + 0.001f;
        c = c * d + 0.5;
        d = d * 0.9999;
        e = (e + f) ^ e >> 3;
        f = f + (e << 1);
        g = g * h + 1;
        h = h + (g > h);
    }
    union { f32x4 a; f64x2 c; i32x4 e; i16x8 g; u64 words[2]; } all[4] = {{.a = a}, {.c = c}, {.e = e}, {.g = g}};
    u64 sum = 0;
    for (u32 i = 0; i < 4; i++)
        sum = sum * 31 + all[i].words[0] + all[i].words[1];
    return sum;
}

// 80-bit floating point.
static u64 x87(void)
{
    long double a = 1, b = 1.0000001L, c = 0.5L;
    for (u32 i = 0; i < 4000000; i++) {
        a = a * b + c;
        c = a / (b + c);
        if (a > 1e6L)
            a -= 999999;
    }
    union { long double value; u64 words[2]; } all = {.value = a + c};
    return all.words[0] ^ (all.words[1] & 0xffff);
}

// Copying and filling by string instructions, 512 MiB in all.
static u64 string(void)
{
    u64 sum = 0;
    for (u32 round = 0; round < 16; round++) {
        memset(arena, round, BYTES);
        memcpy(other, arena, BYTES);
        sum += other[round * 4099];
    }
    return sum;
}

static int same(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

// The stack as the kernel leaves it: how many arguments there are, and they.
struct arguments {
    u64 count;
    const char *texts[];
};

// Runs a program if it is named, or if none is.
static void measure(const struct arguments *names, const char *name, u64 (*program)(void))
{
    int named = names->count < 2;
    for (u64 i = 1; i < names->count; i++)
        named |= same(names->texts[i], name);
    if (!named)
        return;
    line(name, "begin", 0);
    u64 result = program();
    line(name, "end", &result);
}

__asm__(".globl _start\n_start:\nmov %rsp, %rdi\nand $-16, %rsp\ncall run\n");

__attribute__((used)) void run(const struct arguments *names)
{
    // Pages are there before anybody looks at a clock.
    memset(arena, 1, BYTES);
    memset(other, 1, BYTES);
    measure(names, "integer", integer);
    measure(names, "branch", branch);
    measure(names, "memory", memory);
    measure(names, "call", calls);
    measure(names, "sse2", sse2);
    measure(names, "x87", x87);
    measure(names, "string", string);
    call3(SYS_EXIT, 0, 0, 0);
}
