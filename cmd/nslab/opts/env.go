package opts

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/docker/cli/pkg/kvfile"
)

// Env checks --env: NAME=VALUE, or NAME for the value that it has in nslab's own environment. A NAME that has none there
// stays without "=": it takes the image's variable away.
func Env(value string) (string, error) {
	name, _, has := strings.Cut(value, "=")
	if name == "" {
		return "", fmt.Errorf("invalid environment variable: %s", printable(value))
	}
	if err := plain("environment variable", name); err != nil {
		return "", err
	}
	if own, found := os.LookupEnv(name); !has && found {
		return name + "=" + own, nil
	}
	return value, nil
}

// maxFile is how much is read of an --env-file, a --label-file or a seccomp profile.
const maxFile = 4 << 20

// errTooLarge is a file with more than that.
var errTooLarge = errors.New("larger than 4 MiB")

// EnvFiles reads --env-file: lines of NAME=VALUE, or NAME for the value that it has in nslab's own environment. Lines
// that begin with # are comments. Nothing is unquoted or expanded.
func EnvFiles(files []string) ([]string, error) { return keyValues("--env-file", files, os.LookupEnv) }

// LabelFiles reads --label-file: lines of NAME=VALUE. As with Docker, a line without "=" is no label.
func LabelFiles(files []string) ([]string, error) { return keyValues("--label-file", files, nil) }

// keyValues reads files in the form that Docker has for both.
func keyValues(flag string, files []string, lookup func(string) (string, bool)) (list []string, err error) {
	kind := strings.TrimSuffix(strings.TrimPrefix(flag, "--"), "-file")
	for _, file := range files {
		data, err := readFile(file)
		if err != nil {
			return nil, refuse(flag, "", "%w", err)
		}
		// The rules are Docker's own code; what it says of a line ends up as one line here, too.
		pairs, err := kvfile.ParseFromReader(strings.NewReader(data), lookup)
		if err != nil {
			return nil, refuse(flag, "", "invalid %s file (%s): %s", kind, printable(file), printable(err.Error()))
		}
		for _, pair := range pairs {
			name, value, _ := strings.Cut(pair, "=")
			if err := plain("variable", name); err != nil {
				return nil, refuse(flag, "", "invalid %s file (%s): %w", kind, printable(file), err)
			}
			if strings.ContainsRune(value, 0) { // execve(2) would end it there
				return nil, refuse(flag, "", "invalid %s file (%s): variable %s has a NUL character", kind, printable(file), quoted(name))
			}
		}
		list = append(list, pairs...)
	}
	return list, nil
}

// readFile reads a file that a user has named, up to maxFile.
func readFile(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("read %s: %w", name, errTooLarge)
	}
	return string(data), err
}

// Label checks --label: NAME, or NAME=VALUE.
func Label(value string) (string, error) {
	name, _, _ := strings.Cut(value, "=")
	name = strings.TrimLeft(name, " \t")
	if name == "" {
		return "", fmt.Errorf("invalid label %s: empty name", quoted(value))
	}
	if strings.ContainsAny(name, " \t") {
		return "", fmt.Errorf("label %s contains whitespaces", quoted(name))
	}
	return value, plain("label", name)
}

// Pairs makes a map of NAME=VALUE pairs, of which the last of one name counts.
func Pairs(list []string) map[string]string {
	pairs := make(map[string]string, len(list))
	for _, pair := range list {
		name, value, _ := strings.Cut(pair, "=")
		pairs[name] = value
	}
	return pairs
}

// Annotation checks --annotation: NAME=VALUE.
func Annotation(value string) (string, error) {
	name, _, _ := strings.Cut(value, "=")
	if name == "" {
		return "", errors.New("the empty string is not permitted as an annotation key")
	}
	return value, plain("annotation", name)
}
