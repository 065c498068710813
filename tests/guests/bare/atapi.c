/* The CD-ROM drive, master of the secondary channel: PACKET commands by PIO and by bus-master DMA, polled. */
#include "bare.h"

#define DATA 0x170
#define ERROR 0x171
#define FEATURES 0x171
#define REASON 0x172
#define LIMIT_LOW 0x174
#define LIMIT_HIGH 0x175
#define DEVICE 0x176
#define STATUS 0x177
#define COMMAND 0x177
#define ALT_STATUS 0x376
#define CONTROL 0x376

#define BSY 0x80
#define DRQ 0x08
#define ERR 0x01
#define TIMEOUT_MILLIS 10000

static u16 bus_master;
static struct {
    u32 address;
    u16 count;
    u16 flags;
} prds[1024] __attribute__((aligned(8192)));

static u8 wait_ready(void)
{
    u64 deadline = after_millis(TIMEOUT_MILLIS);
    u8 status;
    while ((status = inb(ALT_STATUS)) & BSY)
        if (rdtsc() > deadline)
            break;
    return inb(STATUS);
}

bool atapi_init(void)
{
    bus_master = (u16)((pci_read(1, 1, 0x20) & 0xfff0) + 8);
    pci_write(1, 1, 4, pci_read(1, 1, 4) | 5);
    outb(CONTROL, 2);
    outb(DEVICE, 0xa0);
    inb(ALT_STATUS);
    /* IDENTIFY DEVICE aborts, and leaves the signature of a packet device. */
    outb(COMMAND, 0xec);
    u8 status = wait_ready();
    return status & ERR && inb(LIMIT_LOW) == 0x14 && inb(LIMIT_HIGH) == 0xeb;
}

static struct atapi_result finish(u8 status, u32 bytes)
{
    return (struct atapi_result){ .status = status, .error = status & ERR ? inb(ERROR) : 0, .bytes = bytes,
                                  .timed_out = status & BSY };
}

static void start_dma(void *into, u32 bytes)
{
    u32 index = 0;
    for (u32 address = (u32)(u64)into; bytes; index++) {
        u32 run = 0x10000 - (address & 0xffff);
        if (run > bytes)
            run = bytes;
        prds[index].address = address;
        prds[index].count = (u16)run;
        prds[index].flags = 0;
        address += run;
        bytes -= run;
    }
    prds[index - 1].flags = 0x8000;
    outl(bus_master + 4, (u32)(u64)prds);
    outb(bus_master + 2, 0x06);
    outb(bus_master, 0x08);
    outb(bus_master, 0x09);
}

struct atapi_result atapi_packet(const u8 cdb[12], void *into, u32 limit_bytes, u16 byte_count_limit, bool dma)
{
    outb(DEVICE, 0xa0);
    wait_ready();
    outb(FEATURES, dma);
    outb(LIMIT_LOW, (u8)byte_count_limit);
    outb(LIMIT_HIGH, (u8)(byte_count_limit >> 8));
    outb(COMMAND, 0xa0);
    u8 status = wait_ready();
    if (!(status & DRQ))
        return finish(status, 0);
    outsw(DATA, cdb, 6);
    if (dma) {
        start_dma(into, limit_bytes);
        status = wait_ready();
        bool active = inb(bus_master + 2) & 1;
        outb(bus_master, 0);
        return finish(status, status & ERR || active ? 0 : limit_bytes);
    }
    u32 bytes = 0;
    while (status = wait_ready(), status & DRQ) {
        if ((inb(REASON) & 3) != 2)
            fail("packet %X: reason %X in the data phase", cdb[0], inb(REASON));
        u32 chunk = inb(LIMIT_LOW) | (u32)inb(LIMIT_HIGH) << 8;
        if (!chunk || chunk > limit_bytes - bytes)
            fail("packet %X: a chunk of %u bytes after %u of %u", cdb[0], chunk, bytes, limit_bytes);
        if (byte_count_limit && chunk > byte_count_limit)
            fail("packet %X: a chunk of %u bytes over the limit %u", cdb[0], chunk, byte_count_limit);
        u8 *at = (u8 *)into + bytes;
        if (chunk & 3)
            insw(DATA, at, (chunk + 1) / 2);
        else
            insl(DATA, at, chunk / 4);
        bytes += chunk;
    }
    return finish(status, bytes);
}
