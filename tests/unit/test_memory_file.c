/* Sealed memory files. */
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "os/memory_file.h"

#define SIZE 4096

static int shared_file(size_t size)
{
	struct error err = {0};
	int fd = memory_file_shared("test", size, &err);

	if (fd < 0)
		fail_msg("%s", err.text);
	return fd;
}

static int sealed_file(const void *data, size_t len)
{
	struct error err = {0};
	int fd = memory_file_sealed("test", data, len, &err);

	if (fd < 0)
		fail_msg("%s", err.text);
	return fd;
}

/* ---- Shared pages --------------------------------------------------------------------------- */

static void a_shared_file_is_zeroes_of_the_size_that_was_asked(void **state)
{
	static const char zeroes[SIZE];
	int fd = shared_file(SIZE);
	void *page = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0);
	struct stat st;

	(void)state;
	assert_ptr_not_equal(page, MAP_FAILED);
	assert_memory_equal(page, zeroes, SIZE);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, SIZE);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	munmap(page, SIZE);
	close(fd);
}

static void nobody_can_resize_a_shared_file(void **state)
{
	int fd = shared_file(SIZE);

	(void)state;
	assert_int_equal(ftruncate(fd, 0), -1);
	assert_int_equal(errno, EPERM);
	assert_int_equal(ftruncate(fd, 2 * SIZE), -1);
	assert_int_equal(errno, EPERM);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
	close(fd);
}

static int write_page(void *arg)
{
	char *page = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, *(int *)arg, 0);

	CHILD_CHECK(page != MAP_FAILED);
	page[7] = 'x';
	return 0;
}

static void what_a_child_writes_the_parent_reads(void **state)
{
	int fd = shared_file(SIZE);
	char *page = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0);

	(void)state;
	assert_ptr_not_equal(page, MAP_FAILED);
	assert_int_equal(support_in_child(write_page, &fd), 0);
	assert_int_equal(page[7], 'x');
	munmap(page, SIZE);
	close(fd);
}

static void only_a_file_of_that_size_that_cannot_shrink_passes_as_shared(void **state)
{
	int shared = shared_file(SIZE),
	    plain = memfd_create("plain", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	(void)state;
	assert_int_equal(ftruncate(plain, SIZE), 0);
	assert_true(memory_file_is_shared(shared, SIZE));
	assert_false(memory_file_is_shared(shared, SIZE - 1));
	assert_false(memory_file_is_shared(shared, SIZE + 1));
	assert_false(memory_file_is_shared(plain, SIZE));
	assert_false(memory_file_is_shared(null, SIZE));
	assert_false(memory_file_is_shared(-1, SIZE));
	close(shared);
	close(plain);
	close(null);
}

/* ---- Sealed content ------------------------------------------------------------------------- */

static void sealed_content_is_read_back_as_often_as_wanted(void **state)
{
	static char data[100000];
	int fd;

	(void)state;
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (char)(i * 7);
	fd = sealed_file(data, sizeof(data));
	for (int i = 0; i < 2; i++) {
		struct error err = {0};
		size_t len = 0;
		char *back = memory_file_read(fd, &len, &err);

		assert_non_null(back);
		assert_int_equal(len, sizeof(data));
		assert_memory_equal(back, data, sizeof(data));
		free(back);
	}
	close(fd);
}

static void empty_content_is_content(void **state)
{
	struct error err = {0};
	size_t len = 1;
	int fd = sealed_file("", 0);
	char *back = memory_file_read(fd, &len, &err);

	(void)state;
	assert_non_null(back);
	assert_int_equal(len, 0);
	free(back);
	close(fd);
}

static void sealed_content_can_never_be_changed(void **state)
{
	int fd = sealed_file("precious", 8);

	(void)state;
	assert_int_equal(pwrite(fd, "x", 1, 0), -1);
	assert_int_equal(errno, EPERM);
	assert_int_equal(ftruncate(fd, 0), -1);
	assert_int_equal(errno, EPERM);
	assert_ptr_equal(mmap(NULL, 8, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
	close(fd);
}

static void what_is_not_sealed_is_not_read(void **state)
{
	int shared = shared_file(SIZE), ends[2];
	struct error err = {0};
	size_t len;

	(void)state;
	assert_int_equal(pipe(ends), 0);
	assert_null(memory_file_read(shared, &len, &err));
	assert_contains(err.text, "is not a sealed memory file");
	assert_null(memory_file_read(ends[0], &len, &err));
	assert_null(memory_file_read(-1, &len, &err));
	close(shared);
	close(ends[0]);
	close(ends[1]);
}

static void a_name_that_the_kernel_refuses_is_said(void **state)
{
	struct error err = {0};
	char name[300];

	(void)state;
	memset(name, 'x', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	assert_int_equal(memory_file_shared(name, SIZE, &err), -1);
	assert_contains(err.text, "cannot make the memory file");
	assert_int_equal(memory_file_sealed(name, "", 0, &err), -1);
	assert_contains(err.text, "cannot make the memory file");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_shared_file_is_zeroes_of_the_size_that_was_asked),
		cmocka_unit_test(nobody_can_resize_a_shared_file),
		cmocka_unit_test(what_a_child_writes_the_parent_reads),
		cmocka_unit_test(only_a_file_of_that_size_that_cannot_shrink_passes_as_shared),
		cmocka_unit_test(sealed_content_is_read_back_as_often_as_wanted),
		cmocka_unit_test(empty_content_is_content),
		cmocka_unit_test(sealed_content_can_never_be_changed),
		cmocka_unit_test(what_is_not_sealed_is_not_read),
		cmocka_unit_test(a_name_that_the_kernel_refuses_is_said),
	};

	support_limit_time(60);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
