// Package tarfuse serves layers as file systems to the kernel, through FUSE: one
// layer as the kernel module tarfs would mount it, ready to be a lower directory
// of overlayfs, or the union of several as one read-only root.
package tarfuse

import (
	"fmt"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/kata-cc/kata-cc/tardev"
)

// maxRead is the size in bytes of the largest read that the kernel may ask for.
const maxRead = 1 << 20

// Options are what may be chosen about a mount.
type Options struct {
	FSName string // what stands as the source in /proc/mounts; default the type
	// OnError, if set, hears of every failure that the kernel only sees as EIO. It
	// is called from many goroutines.
	OnError func(error)
}

// Server serves one mount until it is unmounted.
type Server struct {
	fuse *fuse.Server
	dir  string
}

// Mount mounts a layer at dir, read-only, as file system type fuse.tar, and
// serves it in the background. It returns when the mount answers. Inode numbers
// are the layer's; an opaque directory has the extended attribute
// trusted.overlay.opaque; a read that the device below fails is EIO. It needs
// CAP_SYS_ADMIN and /dev/fuse.
func Mount(fsys *tardev.FS, dir string, o Options) (*Server, error) {
	return serve(single{fsys}, "tar", dir, o)
}

func serve(t tree, name, dir string, o Options) (*Server, error) {
	if o.FSName == "" {
		o.FSName = name
	}
	if o.OnError == nil {
		o.OnError = func(error) {}
	}
	s, err := fuse.NewServer(&raw{fuse.NewDefaultRawFileSystem(), t, o.OnError}, dir, &fuse.MountOptions{
		AllowOther:               true, // the modes of the layer decide, not who mounted it
		Options:                  []string{"default_permissions"},
		FsName:                   o.FSName,
		Name:                     name,
		MaxWrite:                 maxRead,
		MaxReadAhead:             maxRead,
		EnableSymlinkCaching:     true,
		ExplicitDataCacheControl: true,
		DirectMountStrict:        true, // no helper program is needed or looked for
		DirectMountFlags:         syscall.MS_RDONLY | syscall.MS_NOSUID | syscall.MS_NODEV,
	})
	if err != nil {
		return nil, fmt.Errorf("mount layer at %s: %w", dir, err)
	}
	go s.Serve()
	if err := s.WaitMount(); err != nil {
		_ = s.Unmount()
		return nil, fmt.Errorf("mount layer at %s: %w", dir, err)
	}
	return &Server{fuse: s, dir: dir}, nil
}

// Unmount unmounts and ends the server. It fails while the mount is in use.
func (s *Server) Unmount() error {
	if err := s.fuse.Unmount(); err != nil {
		return fmt.Errorf("unmount layer at %s: %w", s.dir, err)
	}
	return nil
}

// Wait returns when the mount is gone, whoever unmounted it.
func (s *Server) Wait() { s.fuse.Wait() }
