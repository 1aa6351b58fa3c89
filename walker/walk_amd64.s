#include "textflag.h"
#include "walk.h"

#define CLOCK_GETTIME 228
#define WRITE 1
#define EXIT_GROUP 231

// Registers. The kernel preserves all but AX, CX and R11 over a call.
//
//	R12  scratch    R13  number of the step    R14  the step
//	R15  what the kernel returned    BX  its errno    BP  do not go on
//
// NOW reads the wall clock into a place of the scratch page: the other clocks jump when a time namespace is entered, which is
// one of the steps. After a filter nothing is asked of the kernel that the program would not ask, so it is not read any more.
#define NOW(place, off, done) \
	CMPQ	SEALED(R12), $0; \
	JNE	off; \
	MOVQ	$CLOCK_GETTIME, AX; \
	MOVQ	$0, DI; \
	LEAQ	place(R12), SI; \
	SYSCALL; \
	JMP	done; \
off: \
	MOVQ	$0, place(R12); \
	MOVQ	$0, (place+8)(R12); \
done:

// func walk()
TEXT ·walk(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ	$SCRATCH, R12

	// The two steps of LOADER receive a list. When that is walked, it is their turn again.
load:
	LEAQ	LOADER(R12), R14
	MOVQ	$2, COUNT(R12)
	MOVQ	$1, LOADING(R12)
	MOVQ	$0, R13
	JMP	step

list:
	CMPQ	LOADING(R12), $0
	JEQ	load
	MOVQ	$0, LOADING(R12)
	MOVQ	$LIST, AX
	MOVQ	0(AX), R14
	MOVQ	8(AX), CX
	MOVQ	CX, COUNT(R12)
	MOVQ	$0, DENIED(R12)
	MOVQ	$0, R13

step:
	CMPQ	R13, COUNT(R12)
	JEQ	list
	CMPQ	KIND(R14), $SEALS
	JNE	call

	// A filter knows what the program needs, and nothing of us: it may forbid to write. So success is reported before it is
	// had; a failure is reported again.
	MOVQ	$0, R15
	MOVQ	$0, BX
	MOVQ	$0, BP
	MOVQ	$0, BEFORE(R12)
	MOVQ	$0, (BEFORE+8)(R12)
	MOVQ	$0, AFTER(R12)
	MOVQ	$0, (AFTER+8)(R12)
	MOVQ	$1, AHEAD(R12)
	JMP	note

call:
	NOW(BEFORE, off1, done1)
	MOVQ	0(R14), AX
	MOVQ	8(R14), DI
	MOVQ	16(R14), SI
	MOVQ	24(R14), DX
	MOVQ	32(R14), R10
	MOVQ	40(R14), R8
	MOVQ	48(R14), R9
	SYSCALL
	MOVQ	AX, R15
	MOVQ	$0, BX
	CMPQ	AX, $-4095
	JCS	called
	MOVQ	AX, BX
	NEGQ	BX
	MOVQ	$-1, R15

called:
	NOW(AFTER, off2, done2)
	MOVQ	KIND(R14), AX
	CMPQ	AX, $RECEIVES
	JEQ	received
	CMPQ	AX, $LOCATES
	JNE	judge
	CMPQ	BX, $0
	JNE	judge
	CMPB	CWD(R12), $'/'
	JEQ	judge
	MOVQ	$EXDEV, BX

judge:
	MOVQ	$0, BP
	CMPQ	BX, $0
	JEQ	judged
	CMPQ	AX, $OPTIONAL
	JEQ	judged
	MOVQ	$1, BP
	CMPQ	AX, $ATTEMPTS
	JNE	judged
	CMPQ	BX, $ENOENT
	JEQ	another
	CMPQ	BX, $ENOTDIR
	JEQ	another
	CMPQ	BX, $EACCES
	JNE	judged
	MOVQ	BX, DENIED(R12) // a program that was found but may not be executed, as execvp(3) remembers it

another:
	LEAQ	1(R13), CX
	CMPQ	CX, COUNT(R12)
	JEQ	nowhere
	MOVQ	$0, BP
	JMP	judged

nowhere:
	CMPQ	DENIED(R12), $0
	JEQ	judged
	MOVQ	DENIED(R12), BX

judged:
	CMPQ	AX, $SEALS
	JNE	note
	CMPQ	BX, $0
	JEQ	next
	MOVQ	$0, SEALED(R12)

note:
	MOVQ	UNSENT(R12), CX
	MOVQ	CX, DX
	SHLQ	$5, DX
	LEAQ	REPORTS(R12), DI
	ADDQ	DX, DI
	MOVL	R13, 0(DI)
	MOVL	BX, 4(DI)
	MOVQ	R15, 8(DI)
	MOVQ	AFTER(R12), DX
	SUBQ	BEFORE(R12), DX
	IMULQ	$1000000000, DX
	ADDQ	(AFTER+8)(R12), DX
	SUBQ	(BEFORE+8)(R12), DX
	MOVQ	DX, 16(DI)
	MOVQ	BP, 24(DI)
	INCQ	CX
	MOVQ	CX, UNSENT(R12)

	// Sent together, since each write wakes up the maker; but before this process ends, waits, or becomes two or another.
	CMPQ	AHEAD(R12), $0
	JNE	send
	CMPQ	BP, $0
	JNE	send
	CMPQ	KIND(R14), $FORKS
	JEQ	send
	CMPQ	CX, $MOST
	JEQ	send
	LEAQ	1(R13), DX
	CMPQ	DX, COUNT(R12)
	JEQ	send
	CMPQ	(SIZE+KIND)(R14), $FORKS
	JCS	noted

send:
	MOVQ	$WRITE, AX
	MOVQ	$SOCKET, DI
	LEAQ	REPORTS(R12), SI
	MOVQ	UNSENT(R12), DX
	SHLQ	$5, DX
	SYSCALL
	MOVQ	$0, UNSENT(R12)
	CMPQ	AX, $-4095
	JCS	sent
	CMPQ	SEALED(R12), $0
	JEQ	fail // nobody listens: our maker is dead; but after a filter it may just be that we are not allowed to

sent:
	CMPQ	AHEAD(R12), $0
	JEQ	noted
	MOVQ	$0, AHEAD(R12)
	MOVQ	$1, SEALED(R12)
	JMP	call

noted:
	CMPQ	BP, $0
	JNE	fail
	CMPQ	KIND(R14), $FORKS
	JNE	next
	CMPQ	R15, $0
	JEQ	next
	MOVQ	$0, DI // the other one goes on
	JMP	exit

received:
	CMPQ	BX, $0
	JNE	alone
	CMPQ	R15, 24(R14)
	JNE	fail

next:
	INCQ	R13
	ADDQ	$SIZE, R14
	JMP	step

	// There is no socket: somebody has executed us who is not our maker, as /proc/self/exe for example.
alone:
	MOVQ	$WRITE, AX
	MOVQ	$STDERR, DI
	LEAQ	ALONE(R12), SI
	MOVQ	$ALONELEN, DX
	SYSCALL

fail:
	MOVQ	$FAILED, DI

exit:
	MOVQ	$EXIT_GROUP, AX
	SYSCALL
	JMP	exit

	// Where the program ends, for who copies it.
	BYTE	$'n'; BYTE $'s'; BYTE $'l'; BYTE $'a'; BYTE $'b'; BYTE $'.'; BYTE $'e'; BYTE $'n'; BYTE $'d'; BYTE $'.'
	RET

// func address() uintptr
TEXT ·address(SB), NOSPLIT, $0-8
	LEAQ	·walk(SB), AX
	MOVQ	AX, ret+0(FP)
	RET
