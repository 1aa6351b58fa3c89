// Where things lie: see image.go.
#define SCRATCH 0x420000
#define LIST 0x500000
#define SOCKET 3

// A step, and the kinds of them: see list.go.
#define SIZE 64
#define KIND 56
#define OPTIONAL 1
#define LOCATES 2
#define SEALS 3
#define FORKS 4
#define ATTEMPTS 5
#define RECEIVES 6

// The scratch page.
#define UNSENT 0
#define SEALED 8
#define DENIED 16
#define COUNT 24
#define BEFORE 32
#define AFTER 48
#define AHEAD 64
#define LOADING 72
#define REPORTS 0x1000
#define CWD 0x2000
#define LOADER 0x3000
#define ALONE 0x3100
#define ALONELEN 128
#define STDERR 2

#define MOST 64
#define FAILED 127

#define ENOENT 2
#define EACCES 13
#define EXDEV 18
#define ENOTDIR 20
