/* Modes that read the CD: the whole disc against the host's file, and a change of medium as a driver sees it. */
#include "bare.h"

#define BLOCK 2048
#define CHUNK_BLOCKS 32

static u32 capacity(struct atapi_result *result)
{
    u8 data[8] = { 0 };
    const u8 cdb[12] = { 0x25 };
    *result = atapi_packet(cdb, data, sizeof data, 8, false);
    if (result->status & 1)
        return 0;
    return ((u32)data[0] << 24 | (u32)data[1] << 16 | (u32)data[2] << 8 | data[3]) + 1;
}

static u32 sense(void)
{
    u8 data[18] = { 0 };
    const u8 cdb[12] = { 0x03, 0, 0, 0, sizeof data };
    atapi_packet(cdb, data, sizeof data, sizeof data, false);
    return (data[2] & 0x0fu) << 16 | (u32)data[12] << 8 | data[13];
}

static u32 test_unit_ready(void)
{
    const u8 cdb[12] = { 0 };
    return atapi_packet(cdb, 0, 0, 0, false).status & 1 ? sense() : 0;
}

static void read_blocks(u32 lba, u32 count, void *into, u16 limit, bool dma)
{
    const u8 cdb[12] = { 0x28, 0, (u8)(lba >> 24), (u8)(lba >> 16), (u8)(lba >> 8), (u8)lba,
                         0,    (u8)(count >> 8), (u8)count };
    struct atapi_result result = atapi_packet(cdb, into, count * BLOCK, limit, dma);
    if (result.timed_out || result.status & 1 || result.bytes != count * BLOCK)
        fail("READ(10) of %u + %u: status %X error %X bytes %u sense %x", lba, count, result.status, result.error,
             result.bytes, result.status & 1 ? sense() : 0);
}

static u32 ready_capacity(void)
{
    struct atapi_result result;
    u32 blocks = 0;
    for (u32 attempt = 0; attempt < 10 && !(blocks = capacity(&result)); attempt++)
        sense();
    if (!blocks)
        fail("READ CAPACITY: status %X", result.status);
    return blocks;
}

/* Reads the disc by PIO with a small and a large byte count limit and by DMA, and reports a CRC of every 64 KiB. */
void mode_cd(void)
{
    static const struct {
        const char *name;
        u16 limit;
        bool dma;
    } ways[] = { { "pio-2048", 2048, false }, { "pio-65534", 65534, false }, { "dma", 0, true } };
    if (!atapi_init())
        fail("no CD-ROM drive");
    u32 blocks = ready_capacity();
    print("cd blocks %u\n", blocks);
    for (u32 way = 0; way < 3; way++) {
        for (u32 lba = 0; lba < blocks; lba += CHUNK_BLOCKS) {
            u32 count = blocks - lba < CHUNK_BLOCKS ? blocks - lba : CHUNK_BLOCKS;
            fill(DATA_BUFFER, 0xee, CHUNK_BLOCKS * BLOCK + 8);
            read_blocks(lba, count, DATA_BUFFER, ways[way].limit, ways[way].dma);
            for (u32 i = 0; i < 8; i++)
                if (DATA_BUFFER[count * BLOCK + i] != 0xee)
                    fail("%s: written past the end of %u blocks", ways[way].name, count);
            print("cd %s %u %x\n", ways[way].name, lba, crc32(0, DATA_BUFFER, count * BLOCK));
        }
    }
    /* Past the end: 05/21/00, and nothing of it arrives. */
    const u8 cdb[12] = { 0x28, 0, (u8)(blocks >> 24), (u8)(blocks >> 16), (u8)(blocks >> 8), (u8)blocks, 0, 0, 1 };
    struct atapi_result result = atapi_packet(cdb, DATA_BUFFER, BLOCK, BLOCK, false);
    print("cd end status %X sense %x\n", result.status & 1u, sense());
}

static u32 poll_event(void)
{
    u8 data[8] = { 0 };
    const u8 cdb[12] = { 0x4a, 1, 0, 0, 0x10, 0, 0, 0, sizeof data };
    struct atapi_result result = atapi_packet(cdb, data, sizeof data, sizeof data, false);
    if (result.status & 1 || result.bytes < 8 || (data[2] & 7) != 4)
        return 0;
    return (u32)(data[4] & 0x0f) << 8 | data[5];
}

static void pause_millis(u32 millis)
{
    u64 deadline = after_millis(millis);
    while (rdtsc() < deadline)
        __asm__ volatile("pause");
}

static void report_disc(void)
{
    u32 blocks = ready_capacity();
    read_blocks(0, 16, DATA_BUFFER, 2048, false);
    read_blocks(16, 16, DATA_BUFFER + 16 * BLOCK, 2048, true);
    print("media disc blocks %u crc %x\n", blocks, crc32(0, DATA_BUFFER, 32 * BLOCK));
}

/* Tells of each event and each change of the sense data until the disc was out and another is in. */
void mode_media(void)
{
    if (!atapi_init())
        fail("no CD-ROM drive");
    report_disc();
    print("media waiting\n");
    u32 last = 0;
    bool was_out = false;
    u64 deadline = after_millis(argument("seconds", 60) * 1000);
    while (rdtsc() < deadline) {
        u32 event = poll_event();
        if (event & 0xf00)
            print("media event %u status %u\n", event >> 8, event & 0xff);
        u32 now = test_unit_ready();
        if (now != last)
            print("media sense %x\n", now);
        last = now;
        if ((now & 0xffff00) == 0x023a00)
            was_out = true;
        if (was_out && now == 0) {
            report_disc();
            print("media changed\n");
            return;
        }
        pause_millis(100);
    }
    fail("no change of medium");
}
