package image

import "github.com/nslab/nslab/course"

// zh is what the steps say, in Chinese.
func zh() course.Messages {
	return course.Messages{
		"%s: no layer":                    "%s：没有层",
		"%s: layer %s, in its folder: %s": "%s：层 %s，目录里有：%s",
		"each instruction that changes files has a layer with what it changed": "改动文件的每条指令都有一层，里面只有它的改动",
		"one that only says something has none":                                "只作说明的指令没有层",
		"the history and the list of layers fit together":                      "history 与层的列表对得上",
		"in the config: Env %s · ExposedPorts %s · WorkingDir %s · Cmd %s":     "config 里：Env %s · ExposedPorts %s · WorkingDir %s · Cmd %s",
		"what they said is in the config":                                      "它们说明的内容在 config 里",

		"without a command it says: %s":                                         "不给命令，它输出：%s",
		"it ran CMD, in WORKDIR, with ENV":                                      "它在 WORKDIR 里、带着 ENV 运行了 CMD",
		"with another NAME: %s":                                                 "换一个 NAME：%s",
		"who starts it may say otherwise":                                       "启动它的人可以另作指定",
		"and RUN has run in a container of the layers below, and left its file": "RUN 在由下面各层组成的容器里运行过，留下了它的文件",

		"built again: image %s, before %s":                                                                 "再构建一次：镜像 %s，之前是 %s",
		"the second build comes to the same image":                                                         "第二次构建得到同一个镜像",
		"and writes not one file to the store":                                                             "没有往存储里写一个文件",
		"hello.sh changed, built again: %d of %d layers as before, from below":                             "改了 hello.sh 再构建：从下往上数，%[2]d 层中有 %[1]d 层不变",
		"another file, another image":                                                                      "文件不同，镜像就不同",
		"what stands before ADD in the Dockerfile is as before; ADD and what comes after it was made anew": "Dockerfile 里 ADD 之前的层不变；ADD 及其后的层重新生成",

		"%s: layers %s":     "%s：各层 %s",
		"second: layers %s": "second：各层 %s",
		"the second image has all layers of the first, and one more":   "第二个镜像包含第一个的全部层，另加一层",
		"bytes in their files: %d and %d; in the folder of layers: %d": "两者的文件字节数：%d 和 %d；层目录里共有：%d",
		"on the disk the shared layers are there once":                 "磁盘上，共享的层只有一份",

		"index.json: %s is manifest %s":                                         "index.json：%s 对应 manifest %s",
		"the manifest names config %s and %d layers":                            "manifest 指向 config %s 和 %d 个层",
		"each file's SHA-256, computed here, is its name":                       "在这里现算每个文件的 SHA-256，都与文件名一致",
		"one letter of the config changed: %s → %s":                             "把 config 改一个字母：%s → %s",
		"another content has another digest, so another name":                   "内容不同，摘要就不同，名字也就不同",
		"so the manifest must name another config, and is another too: %s → %s": "于是 manifest 要指向另一个 config，自己也变了：%s → %s",
		"who has the topmost digest has them all":                               "掌握了最顶层的摘要，就掌握了全部",

		"layer %d: blob %s, diff id %s, chain %s":                   "第 %d 层：blob %s，diff id %s，chain %s",
		"a diff id is the digest of the layer's tar, unpacked":      "diff id 是解压后的层 tar 的摘要",
		"packed by gzip -1: %s, by gzip -9: %s; unpacked again: %s": "gzip -1 打包：%s，gzip -9 打包：%s；再解包：%s",
		"packed in two ways the layer is two blobs":                 "打包方式不同，同一层就成了两个 blob",
		"with one diff id":                                   "diff id 却只有一个",
		"SHA-256 of \"%s… %s…\" is %s":                       "“%s… %s…” 的 SHA-256 是 %s",
		"each layer lies unpacked in a folder of that name":  "每一层解包后都放在以此命名的目录里",
		"the same layers in another order are another chain": "同样的层换个顺序，就是另一条链",

		"the new image has one layer more":                                        "新镜像多了一层",
		"the others are the old ones":                                             "其余各层还是原来的",
		"the tar of the new layer: %s":                                            "新层的 tar：%s",
		"it has the new file":                                                     "里面有新建的文件",
		"and a whiteout for the one that was deleted":                             "被删除的文件成了一个 whiteout",
		"not /etc/hosts: that is the init layer's, which is each container's own": "没有 /etc/hosts：它属于 init 层，每个容器各有一份",
		"the volume's mount point is there":                                       "卷的挂载点在里面",
		"and empty: what was written to the volume went past the layer":           "而且是空的：写进卷的内容没有经过这一层",
		"the volume has: %s":                                                      "卷里有：%s",
		"it is in the volume, on the host":                                        "它在宿主机上的卷里",
		"a container of the new image has in /app and /test: %s":                  "用新镜像启动的容器，/app 和 /test 里有：%s",
		"it has the one file, misses the other, and its /test is empty":           "有新文件，没有被删的文件，/test 是空的",

		"the registry was given %d blobs and %d manifest: %s":               "仓库收到 %d 个 blob 和 %d 个 manifest：%s",
		"the layers and the config, each once":                              "各层和 config，每个只传一次",
		"its manifest, asked for by hand: %s; here: %s":                     "直接向它请求 manifest：%s；本地：%s",
		"under the name it has the manifest that we have, byte for byte":    "这个名字下的 manifest 与本地的逐字节相同",
		"pushed again: %d questions whether a blob is there, %d blobs sent": "再推送一次：询问 blob 是否存在 %d 次，发送 blob %d 个",
		"nothing that is there is sent again":                               "已经有的，一个也不再发送",

		"manifest: here %s, there %s":                        "manifest：这边 %s，那边 %s",
		"the same digest":                                    "摘要相同",
		"layer %d, %d files: %s here, %s there":              "第 %d 层，%d 个文件：这边 %s，那边 %s",
		"and the same files: names, modes, owners, contents": "文件也相同：名字、权限、属主、内容",
		"it runs there as it did here":                       "在那边运行，与这边一样",

		"pull says: %s": "pull 的回答：%s",
		"what does not hash to its digest is refused": "内容与摘要不符的，一律拒收",
		"in the store there: images %q, layers %s":    "那边的存储里：镜像 %q，层 %s",
		"no image has come of it":                     "没有因此产生任何镜像",
		"and no file that is not what its name says":  "也没有任何名不副实的文件",
	}
}
