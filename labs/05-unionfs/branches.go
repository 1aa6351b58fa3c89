package unionfs

// branches are the layers in aufs's words: the upper one rw, the others ro+wh, which are read-only and may hold
// whiteouts, as every layer of an image may.
func branches(l Layers) []Branch {
	var list []Branch
	if l.Upper != "" {
		list = append(list, Branch{Path: l.Upper, Mode: "rw"})
	}
	for _, path := range l.Lower {
		list = append(list, Branch{Path: path, Mode: "ro+wh"})
	}
	return list
}

// layersOf is the way back, for an error to tell of.
func layersOf(list []Branch) Layers {
	var l Layers
	for _, b := range list {
		if b.Mode == "rw" && l.Upper == "" {
			l.Upper = b.Path
		} else {
			l.Lower = append(l.Lower, b.Path)
		}
	}
	return l
}
