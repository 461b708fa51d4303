/* The floor of a verified file table: one pass over a gzip layer: SHA-256 of the blob, inflate (ISA-L),
 * SHA-256 of the tar, tar headers, SHA-256 of every regular file. Long names and PAX headers are walked
 * over as data. Arguments: gzip files. Prints CPU seconds, files and bytes. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <isa-l/igzip_lib.h>
#include <openssl/evp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static EVP_MD_CTX *blob, *tar, *file;
static uint64_t files, out_bytes, in_bytes;
static uint64_t left, padding; /* of the member that is being read */
static int in_file;
static unsigned char header[512];
static size_t have;

static uint64_t octal(const unsigned char *p, int n) {
  uint64_t v = 0;
  if (*p & 0x80) { v = *p & 0x7f; for (int i = 1; i < n; i++) v = v << 8 | p[i]; return v; }
  for (int i = 0; i < n && p[i]; i++) if (p[i] >= '0' && p[i] <= '7') v = v * 8 + (p[i] - '0');
  return v;
}

static void member_ends(void) {
  unsigned char digest[32];
  if (in_file) { EVP_DigestFinal_ex(file, digest, NULL); files++; in_file = 0; }
}

static void feed(const unsigned char *p, size_t n) {
  while (n) {
    if (left) {
      size_t k = n < left ? n : left;
      if (in_file) EVP_DigestUpdate(file, p, k);
      p += k; n -= k; left -= k;
      if (!left) member_ends();
    } else if (padding) {
      size_t k = n < padding ? n : padding;
      p += k; n -= k; padding -= k;
    } else {
      size_t k = 512 - have < n ? 512 - have : n;
      memcpy(header + have, p, k);
      p += k; n -= k; have += k;
      if (have < 512) return;
      have = 0;
      if (!header[0]) continue;
      char type = header[156];
      int has_data = type != '1' && type != '2' && type != '3' && type != '4' && type != '5' && type != '6';
      left = has_data ? octal(header + 124, 12) : 0;
      padding = (512 - left % 512) % 512;
      in_file = type == '0' || type == 0;
      if (in_file) EVP_DigestInit_ex(file, EVP_sha256(), NULL);
      if (!left) member_ends();
    }
  }
}

static void layer(const char *path) {
  static unsigned char in[1 << 18], out[1 << 20];
  unsigned char digest[32];
  int fd = open(path, O_RDONLY);
  if (fd < 0) { perror(path); exit(1); }
  struct inflate_state state;
  isal_inflate_init(&state);
  state.crc_flag = ISAL_GZIP;
  left = padding = have = in_file = 0;
  EVP_DigestInit_ex(blob, EVP_sha256(), NULL);
  EVP_DigestInit_ex(tar, EVP_sha256(), NULL);
  for (ssize_t n; (n = read(fd, in, sizeof in)) > 0;) {
    EVP_DigestUpdate(blob, in, n);
    in_bytes += n;
    state.next_in = in; state.avail_in = n;
    do {
      state.next_out = out; state.avail_out = sizeof out;
      if (isal_inflate(&state) != ISAL_DECOMP_OK) { fprintf(stderr, "%s: inflate\n", path); exit(1); }
      size_t k = sizeof out - state.avail_out;
      EVP_DigestUpdate(tar, out, k);
      out_bytes += k;
      feed(out, k);
    } while (state.avail_in || !state.avail_out);
  }
  EVP_DigestFinal_ex(blob, digest, NULL);
  EVP_DigestFinal_ex(tar, digest, NULL);
  close(fd);
}

int main(int argc, char **argv) {
  struct timespec cpu;
  blob = EVP_MD_CTX_new(); tar = EVP_MD_CTX_new(); file = EVP_MD_CTX_new();
  for (int i = 1; i < argc; i++) layer(argv[i]);
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
  printf("cpu_seconds=%.6f files=%lu in_bytes=%lu out_bytes=%lu\n", cpu.tv_sec + cpu.tv_nsec / 1e9, files, in_bytes, out_bytes);
  return 0;
}
