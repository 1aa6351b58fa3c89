package opts

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/docker/go-units"

	"github.com/nslab/nslab/engine"
)

// LogDriver checks --log-driver.
func LogDriver(value string) (string, error) {
	switch value {
	case "", "json-file", "none":
		return value, nil
	}
	return "", fmt.Errorf("no log driver named %s is registered: there are json-file and none", quoted(value))
}

// LogConfig puts --log-driver and --log-opt together.
func LogConfig(driver string, options []string) (engine.LogConfig, error) {
	c := engine.LogConfig{Type: driver, Config: Pairs(options)}
	if driver == "" {
		c.Type = "json-file"
	}
	if c.Type == "none" && len(options) > 0 {
		return c, refuse("--log-opt", "", "invalid logging opts for driver none")
	}
	for _, option := range options {
		name, value, _ := strings.Cut(option, "=")
		if err := logOption(name, value); err != nil {
			return c, err
		}
	}
	return c, nil
}

// logOption checks one option of json-file.
func logOption(name, value string) error {
	const flag = "--log-opt"
	switch name {
	case "max-size":
		n, err := units.FromHumanSize(value)
		if err != nil || n < 0 || n > 1<<62 {
			return refuse(flag, "a number, with k, m or g behind it", "max-size: invalid size: %s", quoted(value))
		}
		if n <= 0 {
			return refuse(flag, "", "max-size must be a positive number")
		}
	case "max-file":
		n, err := strconv.Atoi(value)
		if err != nil {
			return refuse(flag, "", "max-file: %s is no number", quoted(value))
		}
		if n < 1 {
			return refuse(flag, "", "max-file cannot be less than 1")
		}
	default:
		return refuse(flag, "there are max-size and max-file", "unknown log opt %s for json-file log driver", quoted(name))
	}
	return nil
}
