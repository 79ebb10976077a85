// qkv
