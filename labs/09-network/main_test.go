package network

import (
	"testing"

	"github.com/nslab/nslab/course/coursetest"
)

func TestMain(m *testing.M) { coursetest.Main(m) }
