#include "textflag.h"

// func int80(trap, arg uint32) int32
TEXT ·int80(SB), NOSPLIT, $0-12
	MOVL trap+0(FP), AX
	MOVL arg+4(FP), BX
	XORL CX, CX
	XORL DX, DX
	XORL SI, SI
	XORL DI, DI
	INT  $0x80
	MOVL AX, ret+8(FP)
	RET
