package build

import (
	"errors"
	"fmt"
	"os"
)

const maxSecret = 500 << 10 // as buildkit has it

// secret reads one that the command line names.
func (b *builder) secret(id string) (content []byte, found bool, err error) {
	s, ok := b.Secrets[id]
	if !ok {
		return nil, false, nil
	}
	if s.Env != "" {
		v, ok := os.LookupEnv(s.Env)
		return []byte(v), ok, nil
	}
	st, err := os.Stat(s.File)
	if err == nil && !st.Mode().IsRegular() {
		err = errors.New("it is no regular file")
	}
	if err == nil && st.Size() > maxSecret {
		err = fmt.Errorf("it has more than %d bytes", maxSecret)
	}
	if err == nil {
		content, err = os.ReadFile(s.File)
	}
	if err != nil {
		return nil, false, fmt.Errorf("secret %s: %w", id, err)
	}
	return content, true, nil
}
