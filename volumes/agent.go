package volumes

import (
	"context"
	"io"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

const (
	// chunkSize is the content in one CopyFile, in bytes; a message may have 4 MiB.
	chunkSize = 1 << 20
	// parentMode is the mode for missing parents: 0750, and the bit that Go has
	// for directories, as agents and policies expect it.
	parentMode = uint32(fs.ModeDir | 0o750)
)

// FileCopier is the part of an agent that takes files.
type FileCopier interface {
	CopyFile(ctx context.Context, r *agentpb.CopyFileRequest) error
}

// ByAgent copies by the agent's CopyFile. What the guest no longer needs stays
// there unless its agent removes it: the protocol has no word for it.
func ByAgent(agent FileCopier) Copy { return byAgent{agent} }

type byAgent struct{ agent FileCopier }

func (b byAgent) Put(ctx context.Context, o Object, content io.Reader) error {
	r := &agentpb.CopyFileRequest{
		Path: o.Path, FileMode: o.Mode, DirMode: parentMode, Uid: int32(o.UID), Gid: int32(o.GID),
	}
	if o.Mode&unix.S_IFMT != unix.S_IFREG {
		r.Data = []byte(o.Target)
		return b.agent.CopyFile(ctx, r)
	}
	r.FileSize = o.Size
	buf := make([]byte, min(chunkSize, o.Size))
	for {
		r.Data = buf[:min(int64(len(buf)), o.Size-r.Offset)]
		if _, err := io.ReadFull(content, r.Data); err != nil {
			return err
		}
		if err := b.agent.CopyFile(ctx, r); err != nil {
			return err
		}
		if r.Offset += int64(len(r.Data)); r.Offset >= o.Size {
			return nil
		}
	}
}
