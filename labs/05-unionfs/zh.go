package unionfs

import "github.com/nslab/nslab/course"

var zh = course.Messages{}
