// Package nslab holds what the whole program carries with it: the scenarios of its own test suite, so that `nslab test`
// needs no source tree. They are run by package suite; what they look like is told in CONTRIBUTING.md.
package nslab

import "embed"

// Scripts has the scenarios as testdata/script/NAME.txtar.
//
//go:embed testdata/script/*.txtar
var Scripts embed.FS

// ScriptsDir is where they are, in [Scripts] as in the source tree.
const ScriptsDir = "testdata/script"
