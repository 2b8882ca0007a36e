package snapshotter

import (
	"fmt"
	"io"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/containerd/containerd/content/proxy"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// maxMessage is the size in bytes of the largest message taken from containerd,
// its own default.
const maxMessage = 16 << 20

// DialContent returns the content store of the containerd at a unix socket. It
// connects when first asked, and again after a loss.
func DialContent(socket string) (Content, io.Closer, error) {
	conn, err := grpc.NewClient("unix://"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.WaitForReady(false)))
	if err != nil {
		return nil, nil, fmt.Errorf("content store of containerd at %s: %w", socket, err)
	}
	return proxy.NewContentStore(contentapi.NewContentClient(conn)), conn, nil
}
