export DISTRO_NAME=debian DIB_RELEASE=bookworm
