//go:build ignore

package main

import (
	"context"
	"fmt"
	"os"

	"github.com/moby/sys/reexec"
	unionfs "github.com/nslab/nslab/labs/05-unionfs"
)

func main() {
	if reexec.Init() {
		return
	}
	u, err := unionfs.Mount(context.Background(), unionfs.AufsFUSE, unionfs.Layers{Upper: os.Args[1], Lower: []string{os.Args[2]}}, os.Args[3])
	fmt.Println(u, err)
}
