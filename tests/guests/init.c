/* The only program of the test guests: what it puts into memory is known, so that a test can look for it.
 *
 * As process 1 it starts the others (itself, under other names), loads what modules it was given, and fills page cache, tmpfs,
 * huge pages and memory that it frees again. Then it keeps what the kernel itself says of every page (/proc/kpageflags) in its own
 * memory, prints figures on the console, and waits to be stopped.
 *
 * A page that it fills has, as words of 64 bits: MAGIC, who filled it, the virtual address (or the offset in a file), what
 * kind of memory it is, a sum of those, and random words. The test (tests/tests/kernels.rs) knows the same numbers.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#define PAGE 4096ul
#define WORDS (PAGE / 8)
#define HUGE (512 * PAGE)
#define MAGIC 0x454741502d47494dull      /* "MIG-PAGE" */
#define FLAGS_MAGIC 0x47414c462d47494dull /* "MIG-FLAG" */

enum who { INIT = 1, ALPHA, ALPHA_CHILD, BETA, DISK };
enum kind {
	PRIVATE = 1, /* anonymous */
	SHARED_COPY, /* anonymous, mapped by parent and child until one of them writes */
	OWN_COPY,    /* anonymous, the child's copy of such a page */
	SHARED,      /* shared memory of parent and child */
	TMPFS,       /* a file in memory, read and written only */
	RAMFS,       /* a file of a file system without any swap or disk behind it */
	CACHED,      /* a file on the disk, read */
	MAPPED,      /* a file on the disk, mapped */
	TRANSPARENT, /* anonymous, in huge pages where the kernel has some */
	HUGETLB,
	FREED,
};

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15ull;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

static void fill_page(uint64_t *page, enum who who, uint64_t address, enum kind kind)
{
	page[0] = MAGIC;
	page[1] = who;
	page[2] = address;
	page[3] = kind;
	page[4] = mix(mix(mix(who) ^ address) ^ kind);
	for (size_t i = 5; i < WORDS; i++)
		page[i] = mix(page[4] + i);
}

static void must(int good, const char *what)
{
	if (good)
		return;
	perror(what);
	printf("MIG FAILED %s\n", what);
	fflush(NULL);
	if (getpid() == 1)
		pause();
	exit(1);
}

static void fill(void *start, size_t pages, enum who who, enum kind kind)
{
	for (size_t i = 0; i < pages; i++) {
		uint64_t *page = (uint64_t *)((char *)start + i * PAGE);
		fill_page(page, who, (uint64_t)page, kind);
	}
}

/* Memory at an address of its own for each process and kind. */
static void *map(size_t pages, int flags, enum who who, enum kind kind)
{
	void *at = (void *)(0x100000000000ul + ((uint64_t)who << 36) + ((uint64_t)kind << 31));
	if (!(flags & MAP_SHARED))
		flags |= MAP_PRIVATE;
	void *got = mmap(at, pages * PAGE, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_ANONYMOUS | flags, -1, 0);
	return got == MAP_FAILED ? NULL : got;
}

static void write_pages(const char *path, size_t pages, enum who who, enum kind kind)
{
	static uint64_t page[WORDS];
	int file = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0644);
	must(file >= 0, path);
	for (size_t i = 0; i < pages; i++) {
		fill_page(page, who, i * PAGE, kind);
		must(write(file, page, PAGE) == PAGE, path);
	}
	close(file);
	memset(page, 0, sizeof page);
}

static void write_text(const char *path, const char *text)
{
	int file = open(path, O_WRONLY);
	if (file < 0 || write(file, text, strlen(text)) < 0)
		perror(path);
	if (file >= 0)
		close(file);
}

/* Copies a file's text to the console. */
static void print_file(const char *path)
{
	char text[4096];
	size_t len;
	FILE *file = fopen(path, "r");
	if (!file)
		return;
	while ((len = fread(text, 1, sizeof text, file)) > 0)
		fwrite(text, 1, len, stdout);
	fclose(file);
}

/* Says on the pipe at the usual place that all is in place, and stays. */
static void stay(void)
{
	must(write(3, "r", 1) == 1, "pipe");
	for (;;)
		pause();
}

static void alpha(void)
{
	fill(map(300, 0, ALPHA, PRIVATE), 300, ALPHA, PRIVATE);
	char *copied = map(64, 0, ALPHA, SHARED_COPY);
	fill(copied, 64, ALPHA, SHARED_COPY);
	fill(map(50, MAP_SHARED, ALPHA, SHARED), 50, ALPHA, SHARED);
	if (fork() == 0) {
		fill(copied, 32, ALPHA_CHILD, OWN_COPY);
		fill(map(100, 0, ALPHA_CHILD, PRIVATE), 100, ALPHA_CHILD, PRIVATE);
	}
	stay();
}

static void beta(void)
{
	/* Spread out, over many page tables. */
	char *sparse = map(64 * 512, MAP_NORESERVE, BETA, PRIVATE);
	madvise(sparse, 64 * HUGE, MADV_NOHUGEPAGE);
	for (int i = 0; i < 64; i++)
		fill(sparse + i * HUGE, 2, BETA, PRIVATE);
	char *large = map(1024, 0, BETA, TRANSPARENT);
	madvise(large, 2 * HUGE, MADV_HUGEPAGE);
	fill(large, 1024, BETA, TRANSPARENT);
	char *huge = map(1024, MAP_HUGETLB, BETA, HUGETLB);
	if (huge)
		fill(huge, 1024, BETA, HUGETLB);
	int file = open("/disk/files/mapped", O_RDONLY);
	if (file >= 0) {
		volatile char *at = mmap((void *)0x180000000000ul, 100 * PAGE, PROT_READ, MAP_FIXED | MAP_PRIVATE, file, 0);
		must(at != MAP_FAILED, "mapping a file");
		for (int i = 0; i < 100; i++)
			(void)at[i * PAGE];
	}
	stay();
}

static void start(const char *name, int ready)
{
	if (fork() == 0) {
		dup2(ready, 3);
		execl(name, name, (char *)NULL);
		must(0, name);
	}
}

/* Seconds that all processors had nothing to do, together. */
static double idle(void)
{
	double up = 0, idle = 0;
	FILE *file = fopen("/proc/uptime", "r");
	if (file && fscanf(file, "%lf %lf", &up, &idle) != 2)
		idle = 0;
	if (file)
		fclose(file);
	return idle;
}

/* Runs Windows programs where the disk has Wine, and waits until they have nothing to do; returns whether they run. */
static int start_wine(void)
{
	char line[256];
	int said[2], running = 0;
	if (access("/disk/wine", F_OK) != 0)
		return 0;
	must(mount(NULL, "/disk", NULL, MS_REMOUNT, NULL) == 0, "writing to the disk");
	must(pipe(said) == 0, "pipe");
	if (fork() == 0) {
		must(mount("proc", "/disk/wine/proc", "proc", 0, NULL) == 0, "Wine's proc");
		must(mount("dev", "/disk/wine/dev", "devtmpfs", 0, NULL) == 0, "Wine's dev");
		must(mount("tmpfs", "/disk/wine/tmp", "tmpfs", 0, NULL) == 0, "Wine's tmp");
		must(chroot("/disk/wine") == 0 && chdir("/home") == 0, "Wine's folder");
		dup2(open("/dev/null", O_RDWR), 0);
		dup2(said[1], 1);
		dup2(open("/dev/null", O_RDWR), 2);
		char *args[] = { "wine64", "cmd", "/c", "echo MIG RUNS & ping -n 100000 127.0.0.1 > nul", NULL };
		char *env[] = { "PATH=/usr/bin", "HOME=/home", "WINESERVER=/usr/lib/wine/wineserver64", "WINEDEBUG=-all", NULL };
		execve("/usr/lib/wine/wine64", args, env);
		must(0, "wine64");
	}
	close(said[1]);
	FILE *output = fdopen(said[0], "r");
	while (!running && output && fgets(line, sizeof line, output))
		running = strncmp(line, "MIG RUNS", 8) == 0;
	must(running, "Wine");
	/* Two processors: nine tenths of five seconds of both. What goes on after a while does so for ever. */
	for (int i = 0; i < 20; i++) {
		double before = idle();
		sleep(5);
		if (idle() - before >= 9)
			break;
	}
	sync();
	return 1;
}

static void load_modules(void)
{
	char line[256];
	FILE *list = fopen("/modules/list", "r");
	while (list && fgets(line, sizeof line, list)) {
		line[strcspn(line, "\n")] = 0;
		int file = open(line, O_RDONLY);
		if (file < 0 || syscall(SYS_finit_module, file, "", 0) != 0)
			perror(line);
		close(file);
	}
}

/* Mounts what a process expects, and the disk where there are modules for it; returns whether they were. */
static int mount_all(void)
{
	int mounted = 0;
	mkdir("/proc", 0755), mkdir("/sys", 0755), mkdir("/dev", 0755);
	mkdir("/tmp", 0755), mkdir("/ram", 0755), mkdir("/disk", 0755);
	must(mount("proc", "/proc", "proc", 0, NULL) == 0, "/proc");
	must(mount("sysfs", "/sys", "sysfs", 0, NULL) == 0, "/sys");
	mount("dev", "/dev", "devtmpfs", 0, NULL); /* the kernel may have done so */
	must(mount("tmpfs", "/tmp", "tmpfs", 0, NULL) == 0, "tmpfs");
	must(mount("ramfs", "/ram", "ramfs", 0, NULL) == 0, "ramfs");
	load_modules();
	/* The disk appears a moment after its driver. */
	for (int i = 0; i < 50 && !mounted && access("/modules/list", F_OK) == 0; i++) {
		mounted = mount("/dev/vda", "/disk", "ext4", MS_RDONLY, NULL) == 0;
		if (!mounted)
			usleep(100000);
	}
	must(mounted || access("/modules/list", F_OK) != 0, "/disk");
	return mounted;
}

static void fill_caches(void)
{
	static char buffer[1 << 16];
	write_pages("/tmp/file", 200, INIT, TMPFS);
	write_pages("/ram/file", 200, INIT, RAMFS);
	int file = open("/disk/files/cached", O_RDONLY);
	while (file >= 0 && read(file, buffer, sizeof buffer) > 0)
		;
	memset(buffer, 0, sizeof buffer);
	char *freed = map(4096, 0, INIT, FREED);
	must(freed != NULL, "memory to be freed");
	madvise(freed, 4096 * PAGE, MADV_NOHUGEPAGE);
	fill(freed, 4096, INIT, FREED);
	munmap(freed, 4096 * PAGE);
}

/* What the kernel says of every page, in pages of this process: a magic word, the first frame, how many, then their flags. */
static void keep_flags(void)
{
	size_t per_page = WORDS - 3, max = 16 << 20;
	uint64_t *kept = mmap(NULL, max, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	must(kept != MAP_FAILED, "memory for flags");
	/* The first time takes pages for this, which changes what it says; the second time changes nothing. */
	for (int time = 0; time < 2; time++) {
		int file = open("/proc/kpageflags", O_RDONLY);
		must(file >= 0, "/proc/kpageflags");
		for (uint64_t frame = 0, *page = kept; (char *)page < (char *)kept + max; page += WORDS) {
			ssize_t len = read(file, page + 3, per_page * 8);
			if (len <= 0)
				break;
			page[1] = frame;
			page[2] = len / 8;
			page[0] = FLAGS_MAGIC;
			frame += len / 8;
		}
		close(file);
	}
}

static void print_build_id(void)
{
	unsigned char notes[4096];
	FILE *file = fopen("/sys/kernel/notes", "r");
	size_t len = file ? fread(notes, 1, sizeof notes, file) : 0;
	for (size_t at = 0; at + 12 <= len;) {
		uint32_t head[3];
		memcpy(head, notes + at, 12);
		size_t text = at + 12 + (head[0] + 3) / 4 * 4;
		if (head[2] == 3 && head[0] == 4 && text + head[1] <= len && memcmp(notes + at + 12, "GNU", 4) == 0) {
			printf("build-id ");
			for (size_t i = 0; i < head[1]; i++)
				printf("%02x", notes[text + i]);
			printf("\n");
		}
		at = text + (head[1] + 3) / 4 * 4;
	}
}

int main(int argc, char **argv)
{
	if (argc == 2) { /* on the host: a folder of files for the disk */
		char path[4096];
		snprintf(path, sizeof path, "%s/cached", argv[1]);
		write_pages(path, 500, DISK, CACHED);
		snprintf(path, sizeof path, "%s/mapped", argv[1]);
		write_pages(path, 100, DISK, MAPPED);
		return 0;
	}
	if (strcmp(argv[0], "/bin/alpha") == 0)
		alpha();
	if (strcmp(argv[0], "/bin/beta") == 0)
		beta();
	setvbuf(stdout, NULL, _IOFBF, 1 << 16);
	int mounted = mount_all();
	int wine = mounted && start_wine();
	write_text("/proc/sys/vm/nr_hugepages", "4");
	/* Off by itself where there is less than 512 MiB. */
	write_text("/sys/kernel/mm/transparent_hugepage/enabled", "madvise");
	int ready[2];
	char byte;
	must(pipe(ready) == 0, "pipe");
	start("/bin/alpha", ready[1]);
	start("/bin/beta", ready[1]);
	for (int i = 0; i < 3; i++)
		must(read(ready[0], &byte, 1) == 1, "pipe");
	fill(map(20, 0, INIT, PRIVATE), 20, INIT, PRIVATE);
	fill_caches();
	/* Pages wait in batches before they are on the lists that say what they are; compaction empties those. */
	write_text("/proc/sys/vm/compact_memory", "1");
	usleep(300000);
	struct utsname names;
	uname(&names);
	printf("MIG BEGIN\nrelease %s\n", names.release);
	print_build_id();
	printf("disk %s\n", mounted ? "mounted" : "none");
	if (wine)
		printf("wine runs\n");
	printf("vmcoreinfo ");
	print_file("/sys/kernel/vmcoreinfo");
	print_file("/proc/meminfo");
	fflush(NULL);
	keep_flags();
	printf("MIG READY\n");
	fflush(NULL);
	for (;;)
		pause();
}
