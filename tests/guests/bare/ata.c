/*
 * The primary master's task file and bus master, accessed in the order Linux's libata does (drivers/ata/libata-sff.c
 * of Linux 6.1, functions named below), so that what one request costs here is what it costs a real guest. libata's
 * fixed delays are left out: they cost the same everywhere.
 */
#include "bare.h"

#define DATA 0x1f0
#define ERROR 0x1f1
#define FEATURES 0x1f1
#define COUNT 0x1f2
#define LBA_LOW 0x1f3
#define LBA_MID 0x1f4
#define LBA_HIGH 0x1f5
#define DEVICE 0x1f6
#define STATUS 0x1f7
#define COMMAND 0x1f7
#define ALT_STATUS 0x3f6
#define CONTROL 0x3f6

#define BSY 0x80
#define DF 0x20
#define DRQ 0x08
#define ERR 0x01

#define NIEN 0x02
#define IDE_IRQ 14
#define MULTIPLE 16
#define TIMEOUT_MILLIS 10000

struct prd {
    u32 address;
    u16 count;
    u16 flags;
};

struct disk disk;
static u16 bus_master;
static u8 last_control;
static struct prd prds[1024] __attribute__((aligned(8192)));

static u8 wait_while(u8 bits)
{
    u8 status = inb(STATUS);
    if (!(status & bits))
        return status;
    u64 deadline = after_millis(TIMEOUT_MILLIS);
    while ((status = inb(STATUS)) & bits)
        if (rdtsc() > deadline)
            break;
    return status;
}

/* ata_wait_idle */
static u8 wait_idle(void) { return wait_while(BSY | DRQ); }

/* ata_sff_pause */
static void settle(void) { inb(ALT_STATUS); }

/* ata_dev_select(ap, 0, 1, 0) */
static void select_device(void)
{
    wait_idle();
    outb(DEVICE, 0xa0);
    settle();
    wait_idle();
}

/* ata_sff_tf_load */
static void load_task_file(bool lba48, u8 features, u64 lba, u32 count, u8 device, u8 control)
{
    if (control != last_control) {
        outb(CONTROL, control);
        last_control = control;
        wait_idle();
    }
    if (lba48) {
        outb(FEATURES, 0);
        outb(COUNT, (u8)(count >> 8));
        outb(LBA_LOW, (u8)(lba >> 24));
        outb(LBA_MID, (u8)(lba >> 32));
        outb(LBA_HIGH, (u8)(lba >> 40));
    }
    outb(FEATURES, features);
    outb(COUNT, (u8)count);
    outb(LBA_LOW, (u8)lba);
    outb(LBA_MID, (u8)(lba >> 8));
    outb(LBA_HIGH, (u8)(lba >> 16));
    outb(DEVICE, device);
    wait_idle();
}

/* ata_sff_exec_command */
static void execute(u8 code)
{
    outb(COMMAND, code);
    settle();
}

/* ata_bmdma_irq_clear */
static void clear_bus_master_irq(void) { outb(bus_master + 2, inb(bus_master + 2)); }

/* Waits for IRQ 14; ata_sff_irq_status and the clearing after it. */
static bool take_irq(u8 *status)
{
    u64 deadline = after_millis(TIMEOUT_MILLIS);
    for (;;) {
        u32 irqs = wait_irq(deadline);
        if (!irqs)
            return false;
        if (!(irqs & 1u << IDE_IRQ))
            continue;
        if (inb(ALT_STATUS) & BSY)
            continue;
        *status = inb(STATUS);
        clear_bus_master_irq();
        return true;
    }
}

static struct ata_result finish(u8 status, bool timed_out)
{
    return (struct ata_result){ .status = status, .error = status & ERR ? inb(ERROR) : 0, .timed_out = timed_out };
}

/* Up to MULTIPLE sectors of one DRQ block, a string instruction each (ata_pio_sectors). */
static void move_block(bool write, u8 *at, u32 sectors)
{
    for (; sectors; sectors--, at += 512)
        if (write)
            outsl(DATA, at, 128);
        else
            insl(DATA, at, 128);
    settle();
}

static struct ata_result run_pio(const struct ata_request *request)
{
    u8 *at = request->buffer;
    u32 left = request->count;
    u32 block = request->transfer == PIO_MULTIPLE ? MULTIPLE : 1;
    u8 status;
    if (request->write) {
        /* ata_sff_pio_task: the first block goes out without an interrupt. */
        status = wait_while(BSY);
        if (!(status & DRQ))
            return finish(status, false);
    } else if (request->polled) {
        status = wait_while(BSY);
    } else if (!take_irq(&status)) {
        return finish(inb(ALT_STATUS), true);
    }
    for (;;) {
        if (status & (ERR | DF) || !(status & DRQ))
            return finish(status, false);
        u32 sectors = left < block ? left : block;
        move_block(request->write, at, sectors);
        at += sectors * 512;
        left -= sectors;
        if (!left && !request->write)
            return finish(wait_idle(), false);
        if (request->polled)
            status = wait_while(BSY);
        else if (!take_irq(&status))
            return finish(inb(ALT_STATUS), true);
        if (!left)
            return finish(status, false);
    }
}

/* ata_bmdma_qc_prep: the buffer in runs that cross no 64 KiB line. */
static void prepare_prds(u8 *buffer, u32 bytes)
{
    u32 index = 0;
    for (u32 address = (u32)(u64)buffer; bytes; index++) {
        u32 run = 0x10000 - (address & 0xffff);
        if (run > bytes)
            run = bytes;
        prds[index] = (struct prd){ .address = address, .count = (u16)run, .flags = 0 };
        address += run;
        bytes -= run;
    }
    prds[index - 1].flags = 0x8000;
}

static struct ata_result run_dma(const struct ata_request *request, u8 code)
{
    /* ata_bmdma_setup */
    outl(bus_master + 4, (u32)(u64)prds);
    u8 engine = inb(bus_master) & (u8) ~0x09;
    outb(bus_master, request->write ? engine : engine | 0x08);
    execute(code);
    /* ata_bmdma_start */
    outb(bus_master, inb(bus_master) | 0x01);

    u64 deadline = after_millis(TIMEOUT_MILLIS);
    if (request->polled) {
        /* With nIEN set a controller need not show its interrupt bit: the drive's status tells. */
        while (inb(ALT_STATUS) & (BSY | DRQ) || (!(inb(ALT_STATUS) & ERR) && inb(bus_master + 2) & 0x01))
            if (rdtsc() > deadline)
                return finish(inb(ALT_STATUS), true);
    } else {
        /* ata_bmdma_port_intr: not ours without the interrupt bit. */
        do
            if (!wait_irq(deadline))
                return finish(inb(ALT_STATUS), true);
        while (!(inb(bus_master + 2) & 0x04));
    }
    /* ata_bmdma_stop */
    outb(bus_master, inb(bus_master) & (u8)~0x01);
    settle();
    if (inb(ALT_STATUS) & BSY)
        return finish(wait_while(BSY), true);
    u8 status = inb(STATUS);
    clear_bus_master_irq();
    return finish(status, false);
}

static u8 command_code(const struct ata_request *request)
{
    static const u8 codes[3][2][2] = {
        /* [transfer][write][lba48] */
        { { 0xc4, 0x29 }, { 0xc5, 0x39 } },
        { { 0x20, 0x24 }, { 0x30, 0x34 } },
        { { 0xc8, 0x25 }, { 0xca, 0x35 } },
    };
    return codes[request->transfer][request->write][request->lba48];
}

struct ata_result ata_run(const struct ata_request *request)
{
    u8 device = (u8)(0xe0 | (request->lba48 ? 0 : (u32)(request->lba >> 24) & 0x0f));
    if (request->transfer == DMA)
        prepare_prds(request->buffer, request->count * 512);
    select_device();
    load_task_file(request->lba48, 0, request->lba, request->count, device, request->polled ? NIEN : 0);
    if (request->transfer == DMA)
        return run_dma(request, command_code(request));
    execute(command_code(request));
    return run_pio(request);
}

void ata_must(const struct ata_request *request)
{
    struct ata_result result = ata_run(request);
    if (result.timed_out || result.status & (ERR | DF | DRQ))
        fail("command %X at %U + %u: status %X error %X timed out %u", command_code(request), request->lba,
             request->count, result.status, result.error, result.timed_out);
}

struct ata_result ata_no_data(u8 code, u8 features, u8 count)
{
    select_device();
    load_task_file(false, features, 0, count, 0xa0, 0);
    execute(code);
    u8 status;
    if (!take_irq(&status))
        return finish(inb(ALT_STATUS), true);
    return finish(status, false);
}

bool ata_identify(void)
{
    struct ata_request request = { .transfer = PIO_SINGLE, .polled = true, .count = 1, .buffer = disk.identify };
    select_device();
    load_task_file(false, 0, 0, 0, 0xa0, NIEN);
    execute(0xec);
    struct ata_result result = run_pio(&request);
    if (result.timed_out || result.status & (ERR | DF))
        return false;
    const u16 *w = disk.identify;
    disk.sectors28 = w[60] | (u32)w[61] << 16;
    disk.sectors = disk.sectors28;
    if (w[83] & 1 << 10)
        disk.sectors = w[100] | (u64)w[101] << 16 | (u64)w[102] << 32 | (u64)w[103] << 48;
    return true;
}

void ata_init(void)
{
    bus_master = (u16)(pci_read(1, 1, 0x20) & 0xfff0);
    if (!bus_master)
        fail("no bus-master registers");
    pci_write(1, 1, 4, pci_read(1, 1, 4) | 5);
    outb(CONTROL, NIEN);
    last_control = NIEN;
    outb(DEVICE, 0xa0);
    settle();
    if (inb(STATUS) == 0xff || inb(STATUS) == 0)
        fail("no disk on the primary channel");
    if (!ata_identify())
        fail("IDENTIFY DEVICE failed");
    inb(STATUS);
    clear_bus_master_irq();
    unmask_irq(IDE_IRQ);
    struct ata_result result = ata_no_data(0xc6, 0, MULTIPLE);
    if (result.timed_out || result.status & ERR)
        fail("SET MULTIPLE MODE: status %X timed out %u", result.status, result.timed_out);
}
