package clhserver

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// maxRights is how many descriptors Linux lets one message carry.
const maxRights = 253

// stream reads from a Unix connection and keeps the descriptors that arrive
// with the bytes until take.
type stream struct {
	conn  *net.UnixConn
	files []*os.File
}

func (s *stream) Read(p []byte) (int, error) {
	oob := make([]byte, unix.CmsgSpace(maxRights*4))
	n, oobn, _, _, err := s.conn.ReadMsgUnix(p, oob)
	if oobn > 0 {
		if rerr := s.keep(oob[:oobn]); rerr != nil && err == nil {
			err = rerr
		}
	}
	return n, err
}

func (s *stream) keep(oob []byte) error {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fmt.Errorf("read control message: %w", err)
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue // credentials and the like
		}
		for _, fd := range fds {
			s.files = append(s.files, os.NewFile(uintptr(fd), fmt.Sprintf("received-%d", fd)))
		}
	}
	return nil
}

// take hands over the descriptors received so far.
func (s *stream) take() []*os.File {
	files := s.files
	s.files = nil
	return files
}

// hungUp says whether the peer has closed the connection or its writing half,
// which Cloud Hypervisor takes for the same.
func (s *stream) hungUp() bool {
	raw, err := s.conn.SyscallConn()
	if err != nil {
		return true
	}
	hung := false
	err = raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, perr := unix.Poll(p, 0)
		hung = perr == nil && n > 0
	})
	return hung || err != nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
