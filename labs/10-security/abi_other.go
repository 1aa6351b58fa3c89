//go:build !amd64 && !arm64

package security

// No other architecture yet: [Compile] says so.
var (
	abis  [0]abi
	calls [0]call
)

const defaultProgram = ""
