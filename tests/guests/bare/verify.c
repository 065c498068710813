/* Modes that write patterns over a disk and read them back: everything, the addressing limits, and a loop to be killed in. */
#include "bare.h"

static u32 seed;

/* The pattern of a sector: word i is a hash of its address, its seed and i. The host computes the same. */
static u32 pattern_word(u64 lba, u32 i)
{
    u32 x = (u32)lba ^ (u32)(lba >> 32) * 0x85ebca6bu ^ i * 0x9e3779b9u ^ seed;
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    return x ^ x >> 16;
}

static void make(u64 lba, u32 count, u32 *into)
{
    make_native();
    for (; count; count--, lba++)
        for (u32 i = 0; i < 128; i++)
            *into++ = pattern_word(lba, i);
    leave_native();
}

static void check(u64 lba, u32 count, const u32 *from, const char *what)
{
    u32 words = count * 128, at = 0;
    make_native();
    while (at < words && from[at] == pattern_word(lba + at / 128, at % 128))
        at++;
    leave_native();
    if (at < words)
        fail("%s: sector %U word %u is %x, not %x", what, lba + at / 128, at % 128, from[at],
             pattern_word(lba + at / 128, at % 128));
}

static void write_range(struct ata_request request)
{
    request.write = true;
    request.buffer = DATA_BUFFER;
    make(request.lba, request.count, (u32 *)DATA_BUFFER);
    ata_must(&request);
}

static void read_range(struct ata_request request, const char *what)
{
    request.write = false;
    request.buffer = CHECK_BUFFER;
    fill(CHECK_BUFFER, 0, request.count * 512);
    ata_must(&request);
    check(request.lba, request.count, (u32 *)CHECK_BUFFER, what);
}

static const struct {
    const char *name;
    enum transfer transfer;
    bool lba48, polled;
} ways[] = {
    { "dma irq", DMA, false, false },
    { "dma ext irq", DMA, true, false },
    { "dma ext polled", DMA, true, true },
    { "pio multiple irq", PIO_MULTIPLE, false, false },
    { "pio multiple ext irq", PIO_MULTIPLE, true, false },
    { "pio multiple polled", PIO_MULTIPLE, false, true },
    { "pio single irq", PIO_SINGLE, false, false },
    { "pio single ext polled", PIO_SINGLE, true, true },
};
#define WAYS (sizeof ways / sizeof ways[0])

static struct ata_request request_by(u32 way, u64 lba, u32 count)
{
    return (struct ata_request){ .transfer = ways[way].transfer, .lba48 = ways[way].lba48,
                                 .polled = ways[way].polled, .lba = lba, .count = count };
}

/*
 * The whole disk: each stretch is written one way, read back the next way, and the whole is read once more by DMA in
 * large requests. Lengths vary, so that requests start and end everywhere in a page and in a multiple block.
 */
void mode_verify(void)
{
    ata_init();
    seed = argument("seed", 1);
    print("disk sectors %U\n", disk.sectors);
    u64 began = rdtsc();
    static const u32 lengths[] = { 8, 1, 16, 7, 33, 128, 256, 2, 64, 255 };
    u32 step = 0;
    for (u64 lba = 0; lba < disk.sectors; step++) {
        u32 count = lengths[step % 10];
        if (count > disk.sectors - lba)
            count = (u32)(disk.sectors - lba);
        write_range(request_by(step % WAYS, lba, count));
        read_range(request_by((step + 3) % WAYS, lba, count), ways[(step + 3) % WAYS].name);
        lba += count;
    }
    for (u64 lba = 0; lba < disk.sectors; lba += 2048) {
        u32 count = disk.sectors - lba < 2048 ? (u32)(disk.sectors - lba) : 2048;
        read_range(request_by(1, lba, count), "whole");
    }
    struct ata_result flush = ata_no_data(0xea, 0, 0);
    if (flush.timed_out || flush.status & 1)
        fail("FLUSH CACHE EXT: status %X", flush.status);
    print("verify ok in %u requests, %u ms\n", step, micros_since(began) / 1000);
}

static void refused(const char *what, struct ata_request request)
{
    request.buffer = CHECK_BUFFER;
    fill(CHECK_BUFFER, 0x5a, 8192);
    struct ata_result result = ata_run(&request);
    u32 same = 0;
    make_native();
    while (same < 8192 && CHECK_BUFFER[same] == 0x5a)
        same++;
    leave_native();
    if (same < 8192)
        fail("%s: refused, yet memory changed", what);
    print("refused %s status %u error %X timed out %u\n", what, result.status & 1u, result.error, result.timed_out);
}

/* Where the address registers end, and the disk. */
void mode_limits(void)
{
    ata_init();
    seed = argument("seed", 1);
    print("disk sectors %U sectors28 %u\n", disk.sectors, disk.sectors28);
    const u64 end28 = 1u << 28;
    u64 end = disk.sectors;
    struct ata_request at;

    /* The last sectors LBA28 can name, with a count of 1, and of 256, which the register holds as 0. */
    if (end >= end28) {
        for (u32 way = 0; way < WAYS; way++) {
            write_range(request_by(way, end28 - 1 - (ways[way].lba48 ? 0 : 1), 1));
            write_range(request_by(way, end28 - 256 - (ways[way].lba48 ? 0 : 1), 256));
            read_range(request_by((way + 1) % WAYS, end28 - 256 - (ways[(way + 1) % WAYS].lba48 ? 0 : 1), 255),
                       "end of LBA28");
        }
        print("limit lba28 ok\n");
    }
    /* Across it, which only LBA48 can. */
    if (end > end28 + 256) {
        for (u32 way = 0; way < WAYS; way++)
            if (ways[way].lba48) {
                write_range(request_by(way, end28 - 100, 200));
                read_range(request_by(way, end28 - 100, 200), "across 2^28");
            }
        print("limit 2^28 ok\n");
    }
    if (end > (1ull << 32) + 64) {
        write_range(request_by(1, (1ull << 32) - 64, 128));
        read_range(request_by(4, (1ull << 32) - 64, 128), "across 2^32");
        print("limit 2^32 ok\n");
    }
    /* Where each bit of the upper registers is the only one set. The host looks for the data there as well. */
    for (u32 bit = 33; bit < 48; bit++)
        if (end > (1ull << bit) + 64) {
            write_range(request_by(1, (1ull << bit) - 64, 128));
            write_range(request_by(4, (1ull << bit) + 1, 3));
        }
    for (u32 bit = 33; bit < 48; bit++)
        if (end > (1ull << bit) + 64) {
            read_range(request_by(7, (1ull << bit) - 64, 128), "across a bit by pio");
            read_range(request_by(2, (1ull << bit) + 1, 3), "above a bit by dma");
            print("limit 2^%u ok\n", bit);
        }
    /* The end of the disk. */
    write_range(request_by(1, end - 64, 64));
    read_range(request_by(7, end - 64, 64), "end by pio");
    write_range(request_by(4, end - 1, 1));
    read_range(request_by(2, end - 33, 33), "end by dma");
    /* 65536 sectors in one request, which the register holds as 0. */
    if (end >= 65536 + 4096) {
        at = request_by(1, end - 65536, 65536);
        at.buffer = DATA_BUFFER;
        at.write = true;
        make(at.lba, at.count, (u32 *)DATA_BUFFER);
        ata_must(&at);
        fill(DATA_BUFFER, 0, 65536 * 512);
        at.write = false;
        ata_must(&at);
        check(at.lba, at.count, (u32 *)DATA_BUFFER, "65536 sectors");
        print("limit 65536 ok\n");
    }
    print("limit end ok\n");

    /* One past the end, by a hair and by far: refused as a whole. */
    static const char *const names[] = { "dma", "pio" };
    for (u32 way = 0; way < 2; way++) {
        at = request_by(way ? 4 : 1, end - 4, 8);
        if (end < 1ull << 48) {
            refused(names[way], at);
            at.write = true;
            at.lba = end;
            at.count = 1;
            refused(way ? "pio write past" : "dma write past", at);
        }
        at.write = false;
        at.lba = (1ull << 48) - 1;
        at.count = 65536;
        refused(way ? "pio wrap" : "dma wrap", at);
    }
    read_range(request_by(1, end - 64, 64), "after refusals");
    print("limits ok\n");
}

/*
 * Writes numbered records round a ring of 8-sector slots and names each number once its write has completed. Each
 * sector holds the number, its place and a CRC, so that the host can tell which records are whole.
 */
void mode_write_loop(void)
{
    ata_init();
    u32 slots = argument("slots", 256), number = argument("first", 1);
    bool pio = argument_is("way", "pio");
    if (!slots || (u64)slots * 8 > disk.sectors)
        fail("%u slots do not fit", slots);
    print("writing\n");
    for (;; number++) {
        u64 lba = (u64)(number % slots) * 8;
        u32 *word = (u32 *)DATA_BUFFER;
        for (u32 sector = 0; sector < 8; sector++, word += 128) {
            seed = number;
            make(lba + sector, 1, word);
            word[0] = number;
            word[1] = (u32)lba + sector;
            word[2] = crc32(crc32(0, word, 8), word + 3, 125 * 4);
        }
        ata_must(&(struct ata_request){ .transfer = pio ? PIO_MULTIPLE : DMA, .write = true, .lba = lba, .count = 8,
                                        .buffer = DATA_BUFFER });
        print("done %u\n", number);
    }
}
