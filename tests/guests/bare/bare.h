/* What the parts of the bare-metal guest share. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

static inline void outb(u16 port, u8 value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory"); }
static inline void outw(u16 port, u16 value) { __asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port) : "memory"); }
static inline void outl(u16 port, u32 value) { __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory"); }
static inline u8 inb(u16 port)
{
    u8 value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}
static inline u16 inw(u16 port)
{
    u16 value;
    __asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}
static inline u32 inl(u16 port)
{
    u32 value;
    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}
static inline void insw(u16 port, void *into, u32 count)
{
    __asm__ volatile("rep insw" : "+D"(into), "+c"(count) : "d"(port) : "memory");
}
static inline void insl(u16 port, void *into, u32 count)
{
    __asm__ volatile("rep insl" : "+D"(into), "+c"(count) : "d"(port) : "memory");
}
static inline void outsw(u16 port, const void *from, u32 count)
{
    __asm__ volatile("rep outsw" : "+S"(from), "+c"(count) : "d"(port) : "memory");
}
static inline void outsl(u16 port, const void *from, u32 count)
{
    __asm__ volatile("rep outsl" : "+S"(from), "+c"(count) : "d"(port) : "memory");
}
static inline u64 rdtsc(void)
{
    u32 lo, hi;
    __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
    return (u64)hi << 32 | lo;
}

/* start.S */
extern const char command[448];
extern struct {
    u32 low, middle, high, reserved;
} idt[64]; /* 64-bit gates */
extern u64 fault_vector, fault_code, fault_rip;
u32 wait_irq(u64 deadline);
u32 halt_for_irq(void);
void make_native(void);
void leave_native(void);

/* platform.c */
void platform_init(void);
void print(const char *format, ...);
u32 argument(const char *key, u32 otherwise);
bool argument_is(const char *key, const char *value);
void fill(void *into, u8 value, u32 count);
u64 after_millis(u32 millis);
u32 micros_since(u64 tsc);
void power_off(void) __attribute__((noreturn));
void fail(const char *format, ...) __attribute__((noreturn));
void mark(char letter);
u32 crc32(u32 crc, const void *data, u32 count);
u32 pci_read(u8 device, u8 function, u8 offset);
void pci_write(u8 device, u8 function, u8 offset, u32 value);
void unmask_irq(u32 number);

/* Large buffers, above everything else: a guest needs 64 MiB of RAM. */
#define DATA_BUFFER ((u8 *)0x01000000ul)
#define DATA_BUFFER_BYTES 0x02000000u
#define CHECK_BUFFER ((u8 *)0x03000000ul)

/* ata.c: one command on the primary master as Linux's libata issues it. */
enum transfer { PIO_MULTIPLE, PIO_SINGLE, DMA };
struct ata_request {
    enum transfer transfer;
    bool write;
    bool lba48;
    bool polled;
    u64 lba;
    u32 count; /* sectors; the register wraps 256 or 65536 to 0 */
    void *buffer;
};
struct ata_result {
    u8 status; /* status register at the end */
    u8 error;  /* error register, where the status says so */
    bool timed_out;
};
struct disk {
    u64 sectors;
    u32 sectors28;
    u16 identify[256];
};
extern struct disk disk;
void ata_init(void);
bool ata_identify(void);
struct ata_result ata_run(const struct ata_request *request);
struct ata_result ata_no_data(u8 command_code, u8 features, u8 count);
void ata_must(const struct ata_request *request);

/* atapi.c: the CD-ROM on the secondary master. */
struct atapi_result {
    u8 status;
    u8 error;
    u32 bytes; /* how much data came */
    bool timed_out;
};
bool atapi_init(void);
struct atapi_result atapi_packet(const u8 cdb[12], void *into, u32 limit_bytes, u16 byte_count_limit, bool dma);

/* The modes. */
void mode_verify(void);
void mode_limits(void);
void mode_bench(void);
void mode_write_loop(void);
void mode_cd(void);
void mode_media(void);
void mode_smp(void);
void mode_idle(void);
