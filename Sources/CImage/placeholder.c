int hssl_image_placeholder(void); int hssl_image_placeholder(void) { return 0; }
