/* The floor of a proof: open, read and SHA-256 of every file that it reads, in the same order, and with `twice` as the
 * third argument a second SHA-256 over all of them as one stream, which is what a proof has to know. The second argument
 * is a file of paths relative to the first, each with its NUL. Reads one line for each round, prints its CPU seconds,
 * files and bytes. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static char buffer[1 << 17];

int main(int argc, char **argv) {
  char line[64];
  if (argc != 3 && argc != 4) return 2;
  int root = open(argv[1], O_RDONLY | O_DIRECTORY), list = open(argv[2], O_RDONLY);
  if (root < 0 || list < 0) { perror("open"); return 1; }
  off_t length = lseek(list, 0, SEEK_END);
  char *names = malloc(length + 1);
  if (pread(list, names, length, 0) != length) { perror(argv[2]); return 1; }
  EVP_MD_CTX *md = EVP_MD_CTX_new(), *stream = argc == 4 ? EVP_MD_CTX_new() : NULL;
  unsigned char out[32];
  while (fgets(line, sizeof line, stdin)) {
    struct timespec cpu0, cpu1;
    uint64_t files = 0, bytes = 0;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu0);
    if (stream) EVP_DigestInit_ex(stream, EVP_sha256(), NULL);
    for (char *name = names; name < names + length; name += strlen(name) + 1) {
      int fd = openat(root, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOATIME);
      if (fd < 0) { perror(name); return 1; }
      EVP_DigestInit_ex(md, EVP_sha256(), NULL);
      for (ssize_t n; (n = read(fd, buffer, sizeof buffer)) > 0; bytes += n) {
        EVP_DigestUpdate(md, buffer, n);
        if (stream) EVP_DigestUpdate(stream, buffer, n);
      }
      EVP_DigestFinal_ex(md, out, NULL);
      close(fd);
      files++;
    }
    if (stream) EVP_DigestFinal_ex(stream, out, NULL);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu1);
    printf("cpu_seconds=%.6f files=%lu bytes=%lu\n", (cpu1.tv_sec - cpu0.tv_sec) + (cpu1.tv_nsec - cpu0.tv_nsec) / 1e9, files, bytes);
    fflush(stdout);
  }
  return 0;
}
