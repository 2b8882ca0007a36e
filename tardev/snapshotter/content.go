package snapshotter

import (
	"context"
	"fmt"
	"io"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/containerd/content"
	"github.com/containerd/containerd/content/proxy"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// maxMessage is the size in bytes of the largest message taken from containerd,
// its own default.
const maxMessage = 16 << 20

// DialContent returns the content and image store of the containerd at a unix socket. It
// connects when first asked, and again after a loss.
func DialContent(socket string) (Content, io.Closer, error) {
	conn, err := grpc.NewClient("unix://"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.WaitForReady(false)))
	if err != nil {
		return nil, nil, fmt.Errorf("content store of containerd at %s: %w", socket, err)
	}
	return containerdContent{proxy.NewContentStore(contentapi.NewContentClient(conn)), imagesapi.NewImagesClient(conn)}, conn, nil
}

// containerdContent is the content and image store of a containerd.
type containerdContent struct {
	content.Store
	images imagesapi.ImagesClient
}

func (c containerdContent) Images(ctx context.Context) ([]Image, error) {
	reply, err := c.images.List(ctx, new(imagesapi.ListImagesRequest))
	if err != nil {
		return nil, errgrpc.ToNative(err)
	}
	var list []Image
	for _, i := range reply.GetImages() {
		list = append(list, Image{Name: i.GetName(), Target: digest.Digest(i.GetTarget().GetDigest())})
	}
	return list, nil
}
