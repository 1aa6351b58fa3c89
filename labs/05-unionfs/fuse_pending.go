package unionfs

import (
	"context"
	"errors"
)

// Branch is one folder of an aufs, with what may be done to it.
type Branch struct {
	Path string
	Mode string
}

func mountFUSE(_ context.Context, list []Branch, target string) (*Union, error) {
	return nil, &Error{Op: "mount", Driver: AufsFUSE, Layers: layersOf(list), Target: target, Err: errors.ErrUnsupported}
}
