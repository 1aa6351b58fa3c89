#include "textflag.h"
#include "walk.h"

#define CLOCK_GETTIME 113
#define WRITE 64
#define EXIT_GROUP 94

// As walk_amd64.s, line for line. The kernel preserves all registers but R0 over a call.
//
//	R19  scratch    R20  number of the step    R21  the step
//	R22  what the kernel returned    R23  its errno    R24  do not go on    R25  how many steps there are
#define NOW(place, off, done) \
	MOVD	SEALED(R19), R9; \
	CBNZ	R9, off; \
	MOVD	$0, R0; \
	ADD	$place, R19, R1; \
	MOVD	$CLOCK_GETTIME, R8; \
	SVC; \
	B	done; \
off: \
	MOVD	ZR, place(R19); \
	MOVD	ZR, (place+8)(R19); \
done:

// func walk()
TEXT ·walk(SB), NOSPLIT|NOFRAME, $0-0
	MOVD	$SCRATCH, R19

load:
	ADD	$LOADER, R19, R21
	MOVD	$2, R25
	MOVD	$1, R9
	MOVD	R9, LOADING(R19)
	MOVD	$0, R20
	B	step

list:
	MOVD	LOADING(R19), R9
	CBZ	R9, load
	MOVD	ZR, LOADING(R19)
	MOVD	$LIST, R9
	MOVD	0(R9), R21
	MOVD	8(R9), R25
	MOVD	ZR, DENIED(R19)
	MOVD	$0, R20

step:
	CMP	R25, R20
	BEQ	list
	MOVD	KIND(R21), R9
	CMP	$SEALS, R9
	BNE	call

	MOVD	$0, R22
	MOVD	$0, R23
	MOVD	$0, R24
	MOVD	ZR, BEFORE(R19)
	MOVD	ZR, (BEFORE+8)(R19)
	MOVD	ZR, AFTER(R19)
	MOVD	ZR, (AFTER+8)(R19)
	MOVD	$1, R9
	MOVD	R9, AHEAD(R19)
	B	note

call:
	NOW(BEFORE, off1, done1)
	MOVD	0(R21), R8
	MOVD	8(R21), R0
	MOVD	16(R21), R1
	MOVD	24(R21), R2
	MOVD	32(R21), R3
	MOVD	40(R21), R4
	MOVD	48(R21), R5
	SVC
	MOVD	R0, R22
	MOVD	$0, R23
	CMN	$4095, R0
	BCC	called
	NEG	R0, R23
	MOVD	$-1, R22

called:
	NOW(AFTER, off2, done2)
	MOVD	KIND(R21), R10
	CMP	$RECEIVES, R10
	BEQ	received
	CMP	$LOCATES, R10
	BNE	judge
	CBNZ	R23, judge
	ADD	$CWD, R19, R9
	MOVBU	0(R9), R9
	CMP	$'/', R9
	BEQ	judge
	MOVD	$EXDEV, R23

judge:
	MOVD	$0, R24
	CBZ	R23, judged
	CMP	$OPTIONAL, R10
	BEQ	judged
	MOVD	$1, R24
	CMP	$ATTEMPTS, R10
	BNE	judged
	CMP	$ENOENT, R23
	BEQ	another
	CMP	$ENOTDIR, R23
	BEQ	another
	CMP	$EACCES, R23
	BNE	judged
	MOVD	R23, DENIED(R19)

another:
	ADD	$1, R20, R9
	CMP	R25, R9
	BEQ	nowhere
	MOVD	$0, R24
	B	judged

nowhere:
	MOVD	DENIED(R19), R9
	CBZ	R9, judged
	MOVD	R9, R23

judged:
	CMP	$SEALS, R10
	BNE	note
	CBZ	R23, next
	MOVD	ZR, SEALED(R19)

note:
	MOVD	UNSENT(R19), R11
	LSL	$5, R11, R12
	ADD	$REPORTS, R19, R13
	ADD	R12, R13, R13
	MOVW	R20, 0(R13)
	MOVW	R23, 4(R13)
	MOVD	R22, 8(R13)
	MOVD	AFTER(R19), R12
	MOVD	BEFORE(R19), R9
	SUB	R9, R12, R12
	MOVD	$1000000000, R9
	MUL	R9, R12, R12
	MOVD	(AFTER+8)(R19), R9
	ADD	R9, R12, R12
	MOVD	(BEFORE+8)(R19), R9
	SUB	R9, R12, R12
	MOVD	R12, 16(R13)
	MOVD	R24, 24(R13)
	ADD	$1, R11, R11
	MOVD	R11, UNSENT(R19)

	MOVD	AHEAD(R19), R9
	CBNZ	R9, send
	CBNZ	R24, send
	MOVD	KIND(R21), R9
	CMP	$FORKS, R9
	BEQ	send
	CMP	$MOST, R11
	BEQ	send
	ADD	$1, R20, R9
	CMP	R25, R9
	BEQ	send
	MOVD	(SIZE+KIND)(R21), R9
	CMP	$FORKS, R9
	BCC	noted

send:
	MOVD	$SOCKET, R0
	ADD	$REPORTS, R19, R1
	MOVD	UNSENT(R19), R2
	LSL	$5, R2, R2
	MOVD	$WRITE, R8
	SVC
	MOVD	ZR, UNSENT(R19)
	CMN	$4095, R0
	BCC	sent
	MOVD	SEALED(R19), R9
	CBZ	R9, fail

sent:
	MOVD	AHEAD(R19), R9
	CBZ	R9, noted
	MOVD	ZR, AHEAD(R19)
	MOVD	$1, R9
	MOVD	R9, SEALED(R19)
	B	call

noted:
	CBNZ	R24, fail
	MOVD	KIND(R21), R9
	CMP	$FORKS, R9
	BNE	next
	CBZ	R22, next
	MOVD	$0, R0
	B	exit

received:
	CBNZ	R23, alone
	MOVD	24(R21), R9
	CMP	R9, R22
	BNE	fail

next:
	ADD	$1, R20, R20
	ADD	$SIZE, R21, R21
	B	step

alone:
	MOVD	$STDERR, R0
	MOVD	$ALONE, R9
	ADD	R9, R19, R1
	MOVD	$ALONELEN, R2
	MOVD	$WRITE, R8
	SVC

fail:
	MOVD	$FAILED, R0

exit:
	MOVD	$EXIT_GROUP, R8
	SVC
	B	exit

	// Where the program ends, for who copies it: "nslab.end."
	WORD	$0x616c736e
	WORD	$0x6e652e62
	WORD	$0x00002e64
	RET

// func address() uintptr
TEXT ·address(SB), NOSPLIT, $0-8
	MOVD	$·walk(SB), R0
	MOVD	R0, ret+0(FP)
	RET
