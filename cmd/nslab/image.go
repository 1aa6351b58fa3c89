package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab/engine"
	"github.com/nslab/nslab/image"
	"github.com/nslab/nslab/image/registry"
)

func newImageCmd(g *globals) *cobra.Command {
	return newNounCmd(g, "image", "Make and manage images",
		maker{"bootstrap", newImageBootstrapCmd},
		maker{"build", newImageBuildCmd},
		maker{"history", newImageHistoryCmd},
		maker{"import", newImageImportCmd},
		maker{"inspect", newImageInspectCmd},
		maker{"load", newImageLoadCmd},
		maker{"ls", newImageLsCmd},
		maker{"prune", newImagePruneCmd},
		maker{"pull", newImagePullCmd},
		maker{"push", newImagePushCmd},
		maker{"rm", newImageRmCmd},
		maker{"save", newImageSaveCmd},
		maker{"tag", newImageTagCmd},
	)
}

// images opens the store of images.
func (g *globals) images() (*image.Store, error) { return image.Open(g.root) }

// unpacks prepares for unpacking. Go lets as many threads execute Go code as there are processors, and one that waits in a system call
// counts for some 20 µs or more. Here nearly all time goes by in system calls, of readers, hashers and writers: with a few threads more
// one of them always has something to do.
func unpacks() { runtime.GOMAXPROCS(2*runtime.NumCPU() + 1) }

// imageNames lists the images that a shell may offer.
func (g *globals) imageNames() []string {
	s, err := g.images()
	if err != nil {
		return nil
	}
	list, _ := s.List() // those that can be read
	var names []string
	for _, i := range list {
		names = append(names, i.Names...)
	}
	return names
}

// imageUsers asks the engine which containers have an image. If it cannot tell, those that the store has a note of count.
func (g *globals) imageUsers() image.Users {
	var all []*engine.Container
	e, err := g.engine()
	if err == nil {
		all, err = e.List(context.Background())
	}
	return func(id string, noted []string) (users []image.User) {
		for _, c := range all {
			if c.Image == id {
				users = append(users, image.User{ID: c.ID, Running: c.State.Running})
			}
		}
		for _, n := range noted {
			if err != nil && !slices.ContainsFunc(users, func(u image.User) bool { return u.ID == n }) {
				users = append(users, image.User{ID: n})
			}
		}
		return users
	}
}

// imageError gives an error about images its status and its hint.
func imageError(err error) error {
	var s *statusError
	hint := imageHint(err)
	switch {
	case err == nil || hint == "":
		return withStatus(exitFailed, interrupted(err)) // which knows hints of its own
	case !errors.As(err, &s):
		return &statusError{exitFailed, err, hint}
	case s.hint == "":
		s.hint = hint
	}
	return err
}

// imageHint is what to do about an error.
func imageHint(err error) string {
	var packed *image.PackingError
	var config *registry.ConfigError
	switch {
	case errors.As(err, &config):
		return registryHint(err)
	case errors.As(err, &packed) && packed.Name == "zip":
		return "make a tar of its content"
	case errors.As(err, &packed):
		return "unpack it on the way: " + packed.Name + " -dc FILE | nslab image import -"
	case errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0:
		return "the images are another user's: use sudo, or a store of your own: --root DIR"
	case errors.Is(err, image.ErrReference):
		return "a name is [HOST[:PORT]/]PATH[:TAG], in lower case: busybox, tools:v2, localhost:5000/a/b"
	case errors.Is(err, image.ErrInstruction):
		return "what can be changed: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR"
	}
	return ""
}

// sourceDate is the time that new images bear: now, or what SOURCE_DATE_EPOCH says, so that the same input gives the same
// image (https://reproducible-builds.org/specs/source-date-epoch).
func sourceDate() (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		return time.Now(), nil
	}
	return parseSourceDate(text)
}

func parseSourceDate(text string) (time.Time, error) {
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil || seconds < 0 {
		return time.Time{}, &statusError{exitFailed, fmt.Errorf("SOURCE_DATE_EPOCH: %q is no number of seconds", text), "unset it, or take what 'date +%s' prints"}
	}
	return time.Unix(seconds, 0).UTC(), nil
}
