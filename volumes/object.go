package volumes

import (
	"context"
	"io"
)

// Object is a file, a directory or a symbolic link that the guest is to have.
type Object struct {
	Path     string // in the guest
	Mode     uint32 // st_mode, with the bits of the type
	UID, GID uint32
	Size     int64  // of a regular file's content, in bytes
	Target   string // of a symbolic link
}

// Copy is the way into the guest. It is all that a second way must be.
type Copy interface {
	// Put makes o in the guest, in the place of a file or link of that path; a
	// directory that is there keeps its content. Its parents are there already.
	// content has the o.Size bytes of a regular file, which is seen under its
	// path only when it is whole; for anything else content is nil. Put is called
	// for many objects at once, for one path one after another.
	Put(ctx context.Context, o Object, content io.Reader) error
}
