// placeholder
int hssl_image_placeholder(void);
