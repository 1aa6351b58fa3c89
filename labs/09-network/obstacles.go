package network

import (
	"context"

	"github.com/nslab/nslab/diagnosis"
)

// Obstacles looks for what on this host keeps a container's packets from getting through, although everything of nslab's is in
// place. Those that are not OK have a remedy.
func Obstacles(ctx context.Context) ([]diagnosis.Condition, error) {
	return nil, nil
}
